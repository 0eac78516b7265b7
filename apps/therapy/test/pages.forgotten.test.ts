import assert from 'node:assert/strict'
import { test } from 'node:test'
import { codeOf, wrongCode } from '../../../packages/redoubt/test/support/factors.ts'
import { protect } from './support/factors.ts'
import { openPostOffice } from './support/post-office.ts'
import { clean, openSite } from './support/site.ts'

const site = await openSite()
const { clinic, origin, skip } = site
const post = await openPostOffice(clinic)

test('a forgotten password is set anew with the code of the mail, which ends every session', { skip }, async () => {
  const ada = await clinic.patient()
  const open = await site.signedIn(ada)
  const at = await site.visit('telephone')
  const { page } = at
  await page.goto(`${origin}/sign-in`)
  await page.getByRole('link', { name: 'Forgotten password' }).click()
  await site.picture(at, 'forgotten')
  await page.getByLabel('E-mail address').fill(ada.email)
  await page.getByRole('button', { name: 'Send me a code' }).click()
  await page.waitForURL(`${origin}/forgotten/code`)
  await site.picture(at, 'forgotten-code')
  const code = await post.codeTo(ada.email, /new password/)
  const send = async (digits: string, password: string): Promise<void> => {
    await page.getByLabel('Code from the mail').fill(digits)
    await page.getByLabel('New password').fill(password)
    await page.getByRole('button', { name: 'Set the new password' }).click()
  }
  await send(code, 'password1234')
  assert.match(await page.locator('#password-slip').innerText(), /stolen/, 'costs no try')
  await send(code === '1111 1111' ? '2222 2222' : '1111 1111', 'five small boats drift')
  assert.match(await page.locator('#code-slip').innerText(), /not right, or is over/)
  await site.picture(at, 'forgotten-wrong')
  await send(code, 'five small boats drift')
  await page.waitForURL(`${origin}/sign-in?note=reset`)
  assert.match(await page.getByRole('status').innerText(), /new password is set/)
  await open.page.goto(`${origin}/account/sessions`)
  assert.equal(open.page.url(), `${origin}/sign-in`)
  await site.fillIn(at, { email: ada.email, password: 'five small boats drift' })
  await page.waitForURL(`${origin}/account/sessions`)
  clean(at)
})

test('one changes one’s address and one’s password, with the code of the app besides, and the former address takes it back', { skip }, async () => {
  const ada = await clinic.patient()
  const { secret, recovery } = await protect(ada)
  const at = await site.visit('telephone')
  const { page } = at
  await site.fillIn(at, ada)
  await page.getByLabel('Code from your authenticator app').fill(codeOf(secret, 1))
  await page.getByRole('button', { name: 'Continue' }).first().click()
  await page.getByRole('link', { name: 'Security' }).click()
  await site.picture(at, 'security')
  await page.getByRole('link', { name: 'Change your password' }).click()
  await site.picture(at, 'password')
  const change = async (old: string, code: string | undefined): Promise<void> => {
    await page.getByLabel('Present password').fill(old)
    await page.getByLabel('New password').fill('nine grey owls listen')
    await page.getByLabel('Code from your app').fill(code ?? '')
    await page.getByRole('button', { name: 'Change the password' }).click()
  }
  await change('not the password at all', recovery[0])
  assert.match(await page.getByRole('alert').innerText(), /password is not right/)
  await change(ada.password, wrongCode(secret))
  assert.match(await page.getByRole('alert').innerText(), /was not accepted/)
  await change(ada.password, recovery[0])
  await page.waitForURL(`${origin}/account/security?note=password`)
  await page.getByRole('link', { name: 'Change your e-mail address' }).click()
  await site.picture(at, 'email')
  await page.getByLabel('New e-mail address').fill('ada.elsewhere@example.org')
  await page.getByLabel('Your password').fill('nine grey owls listen')
  await page.getByLabel('Code from your app').fill(recovery[1] ?? '')
  await page.getByRole('button', { name: 'Send me a code' }).click()
  await page.waitForURL(`${origin}/account/email/confirm`)
  await site.picture(at, 'email-confirm')
  await page.getByLabel('Code from the mail').fill(await post.codeTo('ada.elsewhere@example.org', /new address/))
  await page.getByRole('button', { name: 'Confirm' }).click()
  await page.waitForURL(`${origin}/account/security?note=email`)
  const undo = /^ {4}([A-Za-z0-9_-]{43})$/m.exec(await post.mailTo(ada.email, /take it back/))?.[1] ?? assert.fail()
  const owner = await site.visit('telephone')
  await owner.page.goto(`${origin}/forgotten`)
  await owner.page.getByRole('link', { name: 'Take it back' }).click()
  await site.picture(owner, 'take-back')
  for (const given of ['nonsense', `${undo.slice(0, -2)}__`]) {
    await owner.page.getByLabel('43 characters').fill(given)
    await owner.page.getByRole('button', { name: 'Take it back' }).click()
    assert.match(await owner.page.getByRole('alert').innerText(), /not what the mail says/)
  }
  await owner.page.getByLabel('43 characters').fill(undo)
  await owner.page.getByRole('button', { name: 'Take it back' }).click()
  await owner.page.waitForURL(`${origin}/sign-in?note=restored`)
  await page.goto(`${origin}/account/security`)
  assert.equal(page.url(), `${origin}/sign-in`, 'the sessions of whoever changed it have ended')
  clean(at)
  clean(owner)
})
