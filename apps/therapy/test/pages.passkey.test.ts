import assert from 'node:assert/strict'
import { test } from 'node:test'
import { passkeyOwner, type Owner } from './support/passkeys.ts'
import { clean, openSite } from './support/site.ts'

const site = await openSite()
const { origin, skip } = site

const withPasskey = (): Promise<Owner> => passkeyOwner(site)

test('the browser offers the passkey where the address is filled in: whoever takes it is signed in, without a password or a button', { skip }, async () => {
  const at = await withPasskey()
  // This authenticator takes every offer at once.
  const sent = at.page.waitForRequest(`${origin}/sign-in/passkey`)
  await at.page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await sent
  await at.page.waitForURL(`${origin}/account/sessions`)
  clean(at)
})

test('without such offers the button asks for the passkey, with a new question where the page has been open for long', { skip }, async () => {
  const at = await withPasskey()
  const { page } = at
  await page.addInitScript('PublicKeyCredential.isConditionalMediationAvailable = () => Promise.resolve(false)')
  await page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await page.clock.install()
  await page.goto(`${origin}/sign-in`)
  assert.equal(await page.getByLabel('E-mail address').getAttribute('autocomplete'), 'username webauthn')
  await page.clock.fastForward('06:00')
  const asked = page.waitForRequest(`${origin}/api/auth/passkey/options`)
  await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
  await asked
  await page.waitForURL(`${origin}/account/sessions`)
  clean(at)
})

test('an offer that waits does not stop the button, the password, or the way back', { skip }, async () => {
  const at = await withPasskey()
  const { page } = at
  await at.device.send('WebAuthn.setUserVerified', { authenticatorId: at.authenticator, isUserVerified: false })
  await page.getByRole('button', { name: 'Sign out', exact: true }).click()
  await page.getByRole('button', { name: 'Sign in with a passkey' }).click()
  await page.getByText('No passkey was used').waitFor()
  await site.fillIn(at, at)
  await page.waitForURL(`${origin}/sign-in/second-factor`)
  clean(at)
})

test('opened under an address in numbers, where browsers give no passkeys, the page is opened under its name', { skip }, async () => {
  const at = await site.visit()
  await at.page.goto('http://127.0.0.1:4310/sign-in?note=late')
  assert.equal(at.page.url(), `${origin}/sign-in?note=late`)
  await at.page.getByRole('button', { name: 'Sign in with a passkey' }).waitFor()
  clean(at)
})

test('what asks for a fresh proof takes the passkey instead of a code: new recovery codes, a new password, the removal of the passkey itself', { skip }, async () => {
  const at = await withPasskey()
  const { page } = at
  await page.goto(`${origin}/account/security`)
  const card = page.locator('.card', { hasText: 'Make new recovery codes' })
  await card.locator('summary').click()
  await site.picture(at, 'step-up-passkey')
  await card.getByRole('button', { name: 'Use a passkey instead' }).click()
  await page.getByRole('heading', { name: 'Your recovery codes' }).waitFor()
  assert.equal(await page.locator('.codes li').count(), 10)
  await page.goto(`${origin}/account/password`)
  const instead = page.getByRole('button', { name: 'Use a passkey instead' })
  await instead.click()
  assert.equal(page.url(), `${origin}/account/password`, 'the other fields come first')
  await page.getByLabel('Present password').fill(at.password)
  await page.getByLabel('New password').fill('nine grey owls listen')
  await instead.click()
  await page.waitForURL(`${origin}/account/security?note=password`)
  // The device without its owner: nothing is sent, and the form stays.
  await at.device.send('WebAuthn.setUserVerified', { authenticatorId: at.authenticator, isUserVerified: false })
  const row = page.locator('li.card', { hasText: 'Passkey' })
  await row.locator('summary').click()
  await row.getByRole('button', { name: 'Use a passkey instead' }).click()
  await row.getByText('No passkey was used').waitFor()
  await at.device.send('WebAuthn.setUserVerified', { authenticatorId: at.authenticator, isUserVerified: true })
  await row.getByRole('button', { name: 'Use a passkey instead' }).click()
  await page.waitForURL(`${origin}/account/security?note=removed`)
  assert.equal(await page.getByRole('button', { name: 'Use a passkey instead' }).count(), 0)
  clean(at)
})

test('attack: a passkey’s answer for one thing, posted with the form of another', { skip }, async () => {
  const at = await withPasskey()
  const { page } = at
  await page.goto(`${origin}/account/security`)
  // The question is for new recovery codes; the form that is sent with its answer removes the factor.
  await page.evaluate(`{
    const [remove, codes] = ['remove', 'recovery'].map((end) => [...document.forms].find((form) => form.getAttribute('action').endsWith('/' + end)))
    codes.setAttribute('action', remove.getAttribute('action'))
  }`)
  const card = page.locator('.card', { hasText: 'Make new recovery codes' })
  await card.locator('summary').click()
  await card.getByRole('button', { name: 'Use a passkey instead' }).click()
  assert.match(await page.getByRole('alert').innerText(), /was not accepted/)
  assert.equal(await page.locator('li.card', { hasText: 'Passkey' }).count(), 1)
})
