import assert from 'node:assert/strict'
import { test } from 'node:test'
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
