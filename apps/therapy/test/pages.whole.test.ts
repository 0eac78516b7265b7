import assert from 'node:assert/strict'
import { test } from 'node:test'
import { passwordLength } from 'redoubt/tokens/password'
import { createAdministrator } from '../src/administrators.ts'
import type { Visit } from './support/chromium.ts'
import { clean, openSite } from './support/site.ts'

const site = await openSite()
const { clinic, origin, adminOrigin, skip } = site
const { service } = clinic
const doors = [{ origin, address: clinic.address, pages: service.pages }, { origin: adminOrigin, address: clinic.adminAddress, pages: service.admin?.pages ?? [] }] as const
const gets = (pages: typeof service.pages): readonly string[] => pages.filter(({ kind, method }) => kind === 'page' && method === 'GET').map(({ path }) => path)
const forms = (pages: typeof service.pages) => pages.filter(({ kind, method }) => kind === 'page' && method === 'POST')

/** What WHATWG HTML §4.10.18.7.1 knows, of what these pages ask for. */
const known = new Set(['off', 'email', 'username', 'username webauthn', 'current-password', 'new-password', 'one-time-code', 'given-name', 'family-name', 'bday', 'tel'])

/** What is wrong with a page for somebody who does not see it, or holds it in one hand. Runs in the page. */
const flaws = `(() => {
  const found = []
  const say = (what, element) => found.push(what + ': ' + element.outerHTML.slice(0, 120))
  if (document.documentElement.lang !== 'en') found.push('no language')
  if (!/ – Therapy/.test(document.title)) found.push('title: ' + document.title)
  if (document.querySelectorAll('h1').length !== 1 || document.querySelectorAll('main').length !== 1) found.push('not one h1 and main')
  const ids = [...document.querySelectorAll('[id]')].map(({ id }) => id)
  if (new Set(ids).size !== ids.length) found.push('an id twice: ' + ids.join())
  for (const field of document.querySelectorAll('input:not([type=hidden]), select')) {
    if (field.labels.length !== 1) say('no label', field)
    if (field.matches('input') && !field.hasAttribute('autocomplete')) say('no autocomplete', field)
    for (const id of (field.getAttribute('aria-describedby') ?? '').split(' ').filter(Boolean)) if (document.getElementById(id) === null) say('described by nothing', field)
  }
  for (const one of document.querySelectorAll('[role=alert], main > [role=status]')) if (one.textContent.trim() === '') say('empty', one)
  for (const one of document.querySelectorAll('button, a')) if (one.textContent.trim() === '') say('no name', one)
  for (const one of document.querySelectorAll('button, input:not([type=hidden]), select, .button, summary, nav a')) {
    const { width, height } = one.getBoundingClientRect()
    if (width > 0 && height < 24) say('less than 24 pixels', one)
  }
  for (const one of document.querySelectorAll('script:not([src]), style, [style], [onclick]')) say('inline', one)
  if (document.documentElement.scrollWidth > innerWidth) found.push('wider than the window: ' + document.documentElement.scrollWidth)
  return found
})()`

/** Contrast of each text with what is behind it (WCAG 2.2, 1.4.3): 4.5, and 3 for large text. Runs in the page. */
const pale = `(() => {
  const parts = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number)
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
  const behind = (element) => { for (let at = element; at !== null; at = at.parentElement) { const [r, g, b, a = 1] = parts(getComputedStyle(at).backgroundColor); if (a === 1) return [r, g, b] } return [255, 255, 255] }
  const found = []
  for (const element of document.querySelectorAll('body *')) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim() !== '') || element.getClientRects().length === 0) continue
    const style = getComputedStyle(element)
    const [a, b] = [light(parts(style.color)), light(behind(element))]
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
    const size = parseFloat(style.fontSize)
    if (ratio < (size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5)) found.push(ratio.toFixed(2) + ': ' + element.outerHTML.slice(0, 100))
  }
  return found
})()`

async function look({ page }: Visit, address: string, seen: Set<string>): Promise<void> {
  await page.goto(address)
  seen.add(page.url().replace(/\?.*/, ''))
  await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
  for (const viewport of [{ width: 320, height: 640 }, { width: 390, height: 844 }, { width: 1280, height: 800 }]) {
    await page.setViewportSize(viewport)
    assert.deepEqual(await page.evaluate(flaws), [], `${page.url()} at ${viewport.width}`)
  }
  assert.deepEqual(await page.evaluate(pale), [], page.url())
  const words = await page.locator('input:not([type=hidden])').evaluateAll((fields) => fields.map((field) => (field as unknown as { readonly autocomplete: string }).autocomplete))
  assert.deepEqual(words.filter((word) => !known.has(word)), [], page.url())
  for (const field of await page.locator('input[autocomplete=new-password]').all()) assert.equal(await field.getAttribute('maxlength'), String(passwordLength.most))
}

test('every page can be used without seeing it, on a telephone, and breaks nothing of its own policy', { skip }, async () => {
  const ada = await clinic.patient()
  const root = await clinic.administrator()
  const auditor = await clinic.administrator('auditor')
  for (const { origin: door, pages } of doors) {
    const at = await site.visit()
    const seen = new Set<string>()
    const steps = { register: 'A'.repeat(43), reset: 'A'.repeat(43), address: JSON.stringify({ request: 'A'.repeat(43), email: 'x@example.org' }), pending: JSON.stringify({ pending: 'A'.repeat(43), factors: ['totp', 'recovery'], allow: [] }) }
    const prefix = door === adminOrigin ? 'therapy-admin' : 'therapy'
    const begun = Object.entries(steps).map(([step, value]) => ({ name: `__Host-${prefix}-${step}`, value: Buffer.from(value).toString('base64url'), domain: 'localhost', path: '/', secure: true, httpOnly: true }))
    await at.context.addCookies(begun)
    for (const path of gets(pages)) await look(at, door + path, seen)
    // Mistyped, and the address of a form: told on a page of the house, under the same policy.
    await look(at, `${door}/nothing-here`, seen)
    assert.equal(await at.page.locator('h1').innerText(), 'Not found')
    await site.picture(at, 'nothing-here')
    await look(at, `${door}/account/sign-out`, seen)
    assert.equal(await at.page.locator('h1').innerText(), 'Not a page by itself')
    for (const someone of door === adminOrigin ? [root, auditor] : [ada]) {
      const signed = await site.visit()
      await signed.context.addCookies(begun)
      const opened = await (door === adminOrigin ? clinic.admin() : clinic.send())('POST', '/api/auth/login', { email: someone.email, password: someone.password })
      const tokens = opened.body['status'] === 'factor_required'
        ? (await clinic.admin()('POST', '/api/auth/second-factor', { pending: opened.body['pending'], proof: { kind: 'recovery', code: (someone as typeof root).recovery[0] } })).body
        : opened.body
      await signed.context.addCookies((['access', 'refresh'] as const).map((name) => ({ name: `__Host-${prefix}-${name}`, value: String(tokens[`${name}_token`]), domain: 'localhost', path: '/', secure: true, httpOnly: true })))
      for (const path of gets(pages)) await look(signed, door + path, seen)
      clean(signed)
    }
    clean(at)
    const missed = gets(pages).filter((path) => !seen.has(door + path) && path !== '/' && path !== '/enrolment')
    assert.deepEqual(missed, [], 'each was really seen')
  }
  assert.deepEqual(clinic.events.filter(({ type }) => type === 'security.csp_violation'), [], 'no report')
})

test('whoever has to begin with the first steps reaches them from every page of the administration', async () => {
  const email = 'begins@example.org'
  const { password } = await createAdministrator(service.app, { requestId: 'create', address: null }, email, 'admin')
  const { body } = await clinic.admin()('POST', '/api/auth/login', { email, password })
  assert.equal(body['role'], 'enrolment')
  const root = await clinic.administrator()
  const at = async (token: unknown, path: string): Promise<readonly [status: number, to: string | null, text: string]> => {
    const answer = await fetch(clinic.adminAddress + path, { redirect: 'manual', headers: { cookie: `__Host-therapy-admin-access=${String(token)}`, accept: 'text/html' } })
    return [answer.status, answer.headers.get('location'), await answer.text()]
  }
  const all = service.admin?.pages ?? []
  const met: Record<string, string> = {}
  for (const path of gets(all)) {
    const [status, to, text] = await at(body['access_token'], path)
    if (status === 303) met[path] = String(to)
    else assert.equal(status, 200, path)
    // Of what a page offers nothing is closed to whoever sees it.
    for (const [, method, href = ''] of text.matchAll(/<(a|form) [^>]*?(?:href|action)="(\/[^"?#]*)/g)) {
      const offered = all.find((one) => one.method === (method === 'a' ? 'GET' : 'POST') && new RegExp(`^${one.path.replace(/\{\w+\}/g, '[^/]+')}$`).test(href))
      assert.ok(offered !== undefined && (offered.access === 'public' || offered.access.includes('enrolment')), `${path} offers ${href}`)
    }
  }
  const { '/sign-in/second-factor': _, '/forgotten/code': __, ...led } = met
  assert.deepEqual(led, Object.fromEntries(['/', '/account/email', '/account/email/confirm', '/accounts', '/record'].map((path) => [path, '/enrolment'])))
  assert.deepEqual((await at(root.token, '/enrolment')).slice(0, 2), [303, '/accounts'], 'from where they are done')
  assert.equal((await at(root.token, '/accounts'))[0], 200)
  const auditor = await clinic.administrator('auditor')
  assert.equal((await at(auditor.token, '/accounts'))[0], 403, 'whoever reads the record is told')
  await clinic.admin(String(body['access_token']))('POST', '/api/auth/logout')
  assert.deepEqual((await at(body['access_token'], '/accounts')).slice(0, 2), [303, '/sign-in'], 'a session that ended is led nowhere else')
})

test('attack: each form of each page, sent by a foreign page and without its token', async () => {
  const ada = await clinic.patient()
  const root = await clinic.administrator()
  for (const { origin: door, address, pages } of doors) {
    const [prefix, token] = door === adminOrigin ? ['therapy-admin', root.token] : ['therapy', ada.token]
    for (const { path, access, form } of forms(pages)) {
      const target = address + path.replace('{id}', ada.id)
      const fields = Object.fromEntries(Object.keys(form?.shape ?? {}).map((name) => [name, 'x']))
      const send = (headers: Record<string, string>): Promise<Response> => fetch(target, { method: 'POST', redirect: 'manual', headers: { cookie: `__Host-${prefix}-access=${token}`, ...headers }, body: new URLSearchParams(fields) })
      for (const headers of [
        { 'sec-fetch-site': 'cross-site', origin: 'https://evil.example' }, { 'sec-fetch-site': 'same-site', origin: 'http://localhost:9' }, { 'sec-fetch-site': 'cross-site', origin: 'null' }, { origin: 'https://evil.example' }, {},
      ]) {
        const response = await send(headers)
        assert.equal(response.status, 403, `${path} ${JSON.stringify(headers)}`)
        assert.deepEqual(response.headers.getSetCookie(), [], path)
      }
      if (access === 'public' || !access.includes(door === adminOrigin ? 'admin' : 'patient')) continue
      const response = await send({ 'sec-fetch-site': 'same-origin', origin: door })
      assert.equal(response.status, 403, `${path} without its token`)
      assert.match(await response.text(), /could not be accepted/)
    }
  }
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 200)
})
