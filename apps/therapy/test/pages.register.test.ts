import assert from 'node:assert/strict'
import { test } from 'node:test'
import { clean, openSite } from './support/site.ts'
import type { Visit } from './support/chromium.ts'

const site = await openSite()
const { clinic, origin, skip } = site
const password = 'seven quiet herons wade'

/** What the browser keeps for the next step: the handle that the code of the mail works with. */
async function handleOf(at: Visit, step: string): Promise<string> {
  const cookie = (await at.context.cookies()).find(({ name }) => name === `__Host-therapy-${step}`) ?? assert.fail(`no cookie for ${step}`)
  assert.deepEqual([cookie.httpOnly, cookie.secure, cookie.sameSite, cookie.path, cookie.domain], [true, true, 'Strict', '/', 'localhost'])
  return Buffer.from(cookie.value, 'base64url').toString()
}

async function register(at: Visit, email: string): Promise<void> {
  const { page } = at
  await page.goto(`${origin}/sign-in`)
  await page.getByRole('link', { name: 'Create an account' }).click()
  for (const [label, value] of [['First name', 'Ada'], ['Last name', 'Sommer'], ['Date of birth', '1988-04-12'], ['E-mail address', email], ['Password', password]] as const) await page.getByLabel(label).fill(value)
  await page.getByRole('button', { name: 'Create the account' }).click()
}

const eight = (right: string, wrong: boolean): string => (wrong ? String((Number(right) + 1) % 100_000_000).padStart(8, '0') : right)

test('a patient registers, confirms the address with the code of the mail, and signs in', { skip }, async () => {
  const at = await site.visit('telephone')
  const { page } = at
  await page.goto(`${origin}/register`)
  await site.picture(at, 'register')
  await register(at, 'new.patient@example.org')
  await page.waitForURL(`${origin}/register/confirm`)
  await site.picture(at, 'register-confirm')
  const right = await clinic.mailed(await handleOf(at, 'register'))
  await page.getByLabel('Code from the mail').fill(eight(right, true))
  await page.getByRole('button', { name: 'Confirm' }).click()
  assert.match(await page.getByRole('alert').innerText(), /not right/)
  assert.match(await page.title(), /^Error: /)
  await site.picture(at, 'register-confirm-wrong')
  await page.getByRole('button', { name: 'Send the mail once more' }).click()
  assert.match(await page.getByRole('status').innerText(), /on its way/)
  await page.getByLabel('Code from the mail').fill(`${right.slice(0, 4)} ${right.slice(4)}`)
  await page.getByRole('button', { name: 'Confirm' }).click()
  await page.waitForURL(`${origin}/sign-in?note=registered`)
  assert.match(await page.getByRole('status').innerText(), /confirmed/)
  await site.picture(at, 'sign-in-registered')
  await site.fillIn(at, { email: 'new.patient@example.org', password })
  await page.waitForURL(`${origin}/account/sessions`)
  clean(at)
})

test('what does not fit is said at its field, and what was typed stays, but for the password', { skip }, async () => {
  const at = await site.visit('telephone')
  const { page } = at
  await page.goto(`${origin}/register`)
  await page.evaluate("document.querySelector('main form').noValidate = true")
  await page.getByLabel('First name').fill('Ada <b>')
  await page.getByLabel('Telephone').fill('12')
  await page.getByLabel('E-mail address').fill('nowhere')
  await page.getByLabel('Password').fill('password1234')
  await page.getByRole('button', { name: 'Create the account' }).click()
  assert.match(await page.getByRole('alert').innerText(), /look at what is marked/)
  for (const [label, said] of [['Last name', /last name/], ['Date of birth', /born/], ['Telephone', /country code/], ['E-mail address', /such as/], ['Password', /stolen/]] as const) {
    const field = page.getByLabel(label)
    assert.equal(await field.getAttribute('aria-invalid'), 'true', label)
    const told = (await field.getAttribute('aria-describedby') ?? '').split(' ').map((id) => page.locator(`#${id}`).innerText())
    assert.match((await Promise.all(told)).join(' '), said)
  }
  assert.deepEqual(await Promise.all(['First name', 'Telephone', 'E-mail address', 'Password'].map((label) => page.getByLabel(label).inputValue())), ['Ada <b>', '12', 'nowhere', ''])
  assert.equal(await page.getByLabel('First name').getAttribute('aria-invalid'), null)
  await site.picture(at, 'register-wrong')
  clean(at)
})

test('attack: an address that has an account gets the same pages as one that has none, to register and to forget', { skip }, async () => {
  const ada = await clinic.patient()
  const seen: unknown[][] = []
  for (const email of [ada.email, 'nobody.of.that@example.org']) {
    const at = await site.visit()
    const told: unknown[] = []
    // In which order a page's files come is the browser's matter.
    at.page.on('response', (response) => void (new URL(response.url()).pathname.startsWith('/assets/') || told.push([response.request().method(), response.status(), new URL(response.url()).pathname, response.headers()['set-cookie']?.replaceAll(/=[\w-]{40,}/g, '=…')])))
    await register(at, email)
    await at.page.waitForURL(`${origin}/register/confirm`)
    told.push((await at.page.content()).replaceAll(email, '(address)'))
    await at.page.getByLabel('Code from the mail').fill('00000000')
    await at.page.getByRole('button', { name: 'Confirm' }).click()
    told.push(await at.page.getByRole('alert').innerText())
    await at.page.goto(`${origin}/forgotten`)
    await at.page.getByLabel('E-mail address').fill(email)
    await at.page.getByRole('button', { name: 'Send me a code' }).click()
    await at.page.waitForURL(`${origin}/forgotten/code`)
    told.push((await at.page.content()).replaceAll(email, '(address)'))
    await at.page.getByLabel('Code from the mail').fill('00000000')
    await at.page.getByLabel('New password').fill(password)
    await at.page.getByRole('button', { name: 'Set the new password' }).click()
    told.push(await at.page.getByRole('alert').innerText(), await at.page.locator('#code-slip').innerText())
    seen.push(told)
    clean(at)
  }
  assert.deepEqual(seen[0], seen[1])
})

test('a code without the browser that asked for it opens nothing', { skip }, async () => {
  const at = await site.visit()
  await register(at, 'elsewhere@example.org')
  await at.page.waitForURL(`${origin}/register/confirm`)
  const elsewhere = await site.visit()
  for (const [from, to] of [['/register/confirm', '/register'], ['/forgotten/code', '/forgotten']] as const) {
    await elsewhere.page.goto(origin + from)
    assert.equal(elsewhere.page.url(), origin + to)
  }
  clean(elsewhere)
})

test('fields side by side stand at one height, also where only one is marked', { skip }, async () => {
  const at = await site.visit('desk')
  const { page } = at
  const topOf = async (selector: string): Promise<number> => (await page.locator(selector).boundingBox())?.y ?? assert.fail(`${selector} is not there`)
  await page.goto(`${origin}/register`)
  for (const step of ['empty', 'one marked']) {
    assert.equal(await topOf('label[for=first_name]'), await topOf('label[for=last_name]'), step)
    assert.equal(await topOf('#first_name'), await topOf('#last_name'), step)
    await page.evaluate("document.querySelector('main form').noValidate = true")
    await page.getByLabel('Last name').fill('Sommer')
    await page.getByRole('button', { name: 'Create the account' }).click()
    await page.locator('#first_name-slip').waitFor()
  }
  await site.picture(at, 'register-slips')
  clean(at)
})
