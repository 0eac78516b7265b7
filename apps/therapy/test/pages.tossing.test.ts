import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Visit } from './support/chromium.ts'
import type { Someone } from './support/clinic.ts'
import { protect } from './support/factors.ts'
import { openSiblings } from './support/siblings.ts'

// Whoever holds any host of the domain sets cookies for all of its hosts (RFC 6265 §8.6: no integrity between siblings).
const site = await openSiblings()
const { clinic, domain, origin, evilOrigin, skip, sent } = site

type Cookie = { readonly name: string; readonly value: string }

async function signIn({ page }: Visit, { email, password }: Someone): Promise<void> {
  await page.goto(`${origin}/sign-in`)
  await page.getByLabel('E-mail address').fill(email)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in', exact: true }).click()
}

async function signedIn(someone: Someone, at?: Visit): Promise<Visit> {
  const visit = at ?? (await site.visit())
  await signIn(visit, someone)
  await visit.page.waitForURL(`${origin}/account/sessions`)
  return visit
}

/** Every way to plant one cookie for the other host of the domain, by the names that the service uses and near them. */
function tossed({ name, value }: Cookie): readonly string[] {
  const bare = name.replace(/^__(?:Host|Secure)-/, '')
  const near = [name.toLowerCase(), name.toUpperCase(), `__Secure-${bare}`, `\u00a0${name}`, `\u2000${name}`]
  return [
    ...[name, bare].flatMap((each) => ['/', '/account', '/account/sessions', '/api', '/sign-in'].map((path) => `${each}=${value}; Domain=${domain}; Path=${path}; Secure`)),
    ...near.map((each) => `${Buffer.from(each).toString('latin1')}=${value}; Domain=${domain}; Path=/; Secure`),
    `${name}=${value}; Path=/; Secure`, `=${name}=${value}; Domain=${domain}; Path=/; Secure`, `${name}; Domain=${domain}; Path=/; Secure`,
  ]
}

/** The sibling's page is opened in the same browser: by headers, and by its script. */
async function toss(at: Visit, cookies: readonly Cookie[]): Promise<void> {
  const lines = cookies.flatMap(tossed)
  site.evil({ cookies: lines })
  const page = await at.context.newPage()
  await page.goto(evilOrigin)
  await page.evaluate(`for (const line of ${JSON.stringify(lines.map((line) => Buffer.from(line, 'latin1').toString()))}) document.cookie = line`)
  await page.close()
}

/** Whom the service takes this browser for: an id, or nobody. */
async function me({ page }: Visit): Promise<string> {
  const answer = (await page.goto(`${origin}/api/auth/me`)) ?? assert.fail()
  if (!answer.ok()) return `nobody ${answer.status()}`
  return String(((await answer.json()) as { readonly id: unknown }).id)
}

/** Session cookies of somebody's browser, as that person can read them out of it. */
const cookiesOf = async (at: Visit): Promise<readonly Cookie[]> => (await at.context.cookies(origin)).map(({ name, value }) => ({ name, value }))

const evil = await clinic.therapist()
const ada = await clinic.patient()
/** How often each of the names stands in the last Cookie line that the service got. */
const timesSent = (names: readonly string[]): readonly number[] => names.map((name) => (sent.at(-1) ?? '').split('; ').filter((pair) => pair.startsWith(`${name}=`)).length)

test('attack: cookie tossing: a sibling host plants its own session, and the visitor is never signed in as somebody else', { skip }, async () => {
  const planted = await cookiesOf(await signedIn(evil))
  assert.ok(planted.length >= 2)
  const visitor = await site.visit()
  await toss(visitor, planted)
  assert.match(await me(visitor), /^nobody/, 'before the sign-in')
  await visitor.page.goto(`${origin}/account/sessions`)
  assert.equal(visitor.page.url(), `${origin}/sign-in`)
  await signedIn(ada, visitor)
  const own = await cookiesOf(visitor)
  assert.equal(await me(visitor), ada.id)
  await toss(visitor, planted)
  assert.equal(await me(visitor), ada.id, 'after it')
  assert.deepEqual(timesSent(planted.map(({ name }) => name)), planted.map(() => 1), 'none of ours is sent twice')
  const now = await cookiesOf(visitor)
  for (const { name, value } of own) if (planted.some((each) => each.name === name)) assert.equal(now.find((each) => each.name === name)?.value, value)
  await visitor.page.goto(`${origin}/account/sessions`)
  await visitor.page.getByRole('button', { name: 'Sign out on all devices' }).click()
  assert.match(await visitor.page.getByRole('status').first().innerText(), /signed out on all devices/)
  assert.equal((await ada.send('GET', '/api/auth/me')).status, 401)
  assert.equal((await evil.send('GET', '/api/auth/me')).status, 200)
  await toss(visitor, planted)
  assert.match(await me(visitor), /^nobody/, 'after signing out')
})

test('attack: cookie tossing: the second step of somebody else’s sign-in is not finished in the visitor’s browser', { skip }, async () => {
  const other = await clinic.patient()
  await protect(other)
  const begun = await site.visit()
  await signIn(begun, other)
  await begun.page.waitForURL(`${origin}/sign-in/second-factor`)
  const visitor = await site.visit()
  await toss(visitor, await cookiesOf(begun))
  await visitor.page.goto(`${origin}/sign-in/second-factor`)
  assert.equal(visitor.page.url().split('?')[0], `${origin}/sign-in`)
})

test('attack: cookie tossing: a sibling’s form with its own session’s CSRF token, planted and posted, changes nothing of the visitor', { skip }, async () => {
  const berg = await clinic.patient()
  const attacker = await signedIn(evil)
  const token = await attacker.page.locator('input[name=csrf_token]').first().inputValue()
  const visitor = await signedIn(berg)
  await toss(visitor, ['csrf_token', 'csrf', 'X-CSRF-Token', 'XSRF-TOKEN', '_csrf', '__Host-therapy-csrf'].map((name) => ({ name, value: token })))
  // The token alone, too: Fetch Metadata and Origin tell a sibling already.
  const lenient = await clinic.another({ controls: { 'fetch-metadata': 'report', origin: 'report' } })
  for (const address of [clinic.address, lenient.address]) {
    site.through(address)
    site.evil({ html: `<!doctype html><title>Win a prize</title><form method="post" action="${origin}/account/sessions/end-all"><input name="csrf_token" value="${token}"></form>` })
    const page = await visitor.context.newPage()
    await page.goto(evilOrigin)
    const answered = page.waitForResponse((response) => response.request().method() === 'POST')
    await page.evaluate(`document.forms[0].submit()`)
    assert.equal((await answered).status(), 403)
    assert.deepEqual(timesSent(['__Host-therapy-access']), [1], 'a browser sends Lax cookies along from a sibling')
    await page.close()
    assert.equal(await me(visitor), berg.id)
  }
  assert.ok(clinic.events.some((event) => event.type === 'security.control_triggered' && event.control === 'csrf' && event.rule === 'signature'))
  site.through(clinic.address)
})

test('attack: cookie tossing: a sibling overflows the jar, and what is left signs the visitor out at most, in as nobody', { skip }, async () => {
  const carl = await clinic.patient()
  const planted = await cookiesOf(await signedIn(evil))
  const visitor = await signedIn(carl)
  site.evil({})
  const page = await visitor.context.newPage()
  await page.goto(evilOrigin)
  await page.evaluate(`for (let n = 0; n < 4000; n++) document.cookie = 'c' + n + '=1; Domain=${domain}; Path=/; Secure; Max-Age=9999999'`)
  await toss(visitor, planted)
  const who = await me(visitor)
  assert.ok(who === carl.id || who.startsWith('nobody'), who)
  assert.equal(timesSent(planted.map(({ name }) => name)).every((times) => times <= 1), true)
  // The jar is full of the sibling's; signing in makes room for ours.
  await signedIn(carl, visitor)
  assert.equal(await me(visitor), carl.id)
  // Large ones: the line is too long for the service, which then knows nobody rather than read a part of it.
  await page.evaluate(`for (let n = 0; n < 3; n++) document.cookie = 'd' + n + '=' + 'x'.repeat(3000) + '; Domain=${domain}; Path=/; Secure'`)
  await visitor.page.goto(`${origin}/account/sessions`)
  await visitor.page.getByText('Delete the cookies of this site').waitFor()
  await page.evaluate(`for (let n = 0; n < 60; n++) document.cookie = 'd' + n + '=' + 'x'.repeat(3000) + '; Domain=${domain}; Path=/; Secure'`)
  await toss(visitor, planted)
  assert.match(await me(visitor), /^nobody 4\d\d/)
})
