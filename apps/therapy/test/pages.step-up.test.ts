import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openTokens } from 'redoubt/tokens'
import { tokenKeys } from 'redoubt/tokens/keys'
import { tables } from '../src/tables.ts'
import type { Visit } from './support/chromium.ts'
import { protect } from './support/factors.ts'
import { openDevice, passkeyOwner, setUpPasskey } from './support/passkeys.ts'
import { openPostOffice } from './support/post-office.ts'
import { clean, openSite } from './support/site.ts'

const site = await openSite()
const { clinic, origin, adminOrigin, skip } = site
const post = skip === false ? await openPostOffice(clinic) : undefined
const { cookies } = clinic.service.app.browser

/** The browser has had its access token for so many minutes: one like it that was issued then. */
async function age({ context }: Visit, minutes: number): Promise<void> {
  const [held] = (await context.cookies(origin)).filter(({ name }) => name === cookies.names.access)
  const { keyring, app } = clinic.service
  const { actor, session, role, tenant } = app.identity.tokens.verify(held?.value ?? '')
  const then = openTokens({ issuer: origin, audience: tables.service, keys: await tokenKeys(keyring, 'token-sign'), now: () => Date.now() - minutes * 60_000 })
  await context.addCookies([{ ...(held ?? assert.fail()), value: then.issue({ actor, session, role, tenant }).token }])
}

const instead = { name: 'Use a passkey instead' } as const

test('a change of one’s address takes the passkey instead of a code', { skip }, async () => {
  const at = await passkeyOwner(site)
  const { page } = at
  const moved = `moved.${at.email}`
  await page.goto(`${origin}/account/email`)
  await page.getByLabel('New e-mail address').fill(moved)
  await page.getByLabel('Your password').fill(at.password)
  await page.getByRole('button', instead).click()
  await page.waitForURL(`${origin}/account/email/confirm`)
  await page.getByLabel('Code from the mail').fill((await post?.codeTo(moved, /address/)) ?? '')
  await page.getByRole('button', { name: 'Confirm' }).click()
  await page.waitForURL(`${origin}/account/security?note=email`)
  assert.deepEqual((await clinic.send()('POST', '/api/auth/login', { email: moved, password: at.password })).body['status'], 'factor_required')
  clean(at)
})

test('a further factor, an app or another passkey, is set up with the passkey that is there', { skip }, async () => {
  const at = await passkeyOwner(site)
  const { page } = at
  await page.goto(`${origin}/account/security`)
  await page.locator('summary', { hasText: 'Set up an app' }).click()
  await page.locator('.card', { hasText: 'Set up an app' }).getByRole('button', instead).click()
  await page.getByRole('img', { name: /QR code/ }).waitFor()
  await page.goto(`${origin}/account/security`)
  await page.locator('summary', { hasText: 'Set up a passkey' }).click()
  const card = page.locator('.card', { hasText: 'Set up a passkey' })
  await card.getByLabel('A name to know it by').fill('Another device')
  await card.getByRole('button', instead).click()
  await page.getByRole('heading', { name: 'New passkey' }).waitFor()
  // One device holds one passkey of an account: the other is another one.
  await at.device.send('WebAuthn.clearCredentials', { authenticatorId: at.authenticator })
  await page.getByRole('button', { name: 'Make the passkey' }).click()
  await page.waitForURL(`${origin}/account/security?note=added`)
  assert.equal(await page.locator('li.card .badge', { hasText: 'Passkey' }).count(), 2)
  clean(at)
})

test('an administrator asks for the removal of a lost second step with a passkey, for the account of that form and no other', { skip }, async () => {
  const [root, ada, egon] = [await clinic.administrator(), await clinic.patient(), await clinic.patient()]
  for (const each of [ada, egon]) await protect(each)
  const at = await site.visit()
  const { page } = at
  await openDevice(at)
  await site.fillIn(at, root, adminOrigin)
  await page.getByText('Use a recovery code').click()
  await page.getByLabel('Recovery code').fill(root.recovery[0] ?? '')
  await page.locator('details').getByRole('button', { name: 'Continue' }).click()
  await page.waitForURL(`${adminOrigin}/accounts`)
  await setUpPasskey(at, adminOrigin, root.recovery[1] ?? '')
  await page.waitForURL(`${adminOrigin}/account/security?note=added`)
  const form = async (id: string) => {
    await page.goto(`${adminOrigin}/accounts?role=patient`)
    const card = page.locator('li.card', { hasText: id })
    await card.locator('summary', { hasText: 'Remove a lost second step' }).click()
    return card
  }
  const resets = async (id: string): Promise<number> => (await clinic.database.admin('select 1 from redoubt.factor_resets where user_id = $1', [id])).length
  // attack: the answer to the question for one account, posted for another.
  const first = await form(ada.id)
  await page.evaluate(`for (const form of document.forms) form.setAttribute('action', form.getAttribute('action').replace('${ada.id}/factor-reset', '${egon.id}/factor-reset'))`)
  await first.getByRole('button', instead).click()
  assert.match(await page.getByRole('alert').innerText(), /was not accepted/)
  assert.deepEqual([await resets(ada.id), await resets(egon.id)], [0, 0])
  await (await form(ada.id)).getByRole('button', instead).click()
  await page.waitForURL(`${adminOrigin}/accounts?note=factor-reset`)
  assert.match(await page.locator('.told').innerText(), /told by mail/)
  assert.deepEqual([await resets(ada.id), await resets(egon.id)], [1, 0])
  clean(at)
})

test('a page that stayed open for longer than an access token lives takes the passkey all the same', { skip }, async () => {
  const at = await passkeyOwner(site)
  const { page } = at
  await page.goto(`${origin}/account/security`)
  const card = page.locator('.card', { hasText: 'Make new recovery codes' })
  await card.locator('summary').click()
  await age(at, 11)
  const asked: string[] = []
  page.on('response', (response) => response.request().method() === 'POST' && asked.push(`${new URL(response.url()).pathname} ${response.status()}`))
  await card.getByRole('button', instead).click()
  await page.getByRole('heading', { name: 'Your recovery codes' }).waitFor()
  assert.deepEqual(asked, ['/api/auth/step-up/options 401', '/api/auth/refresh 200', '/api/auth/step-up/options 200', '/account/security/recovery 200'])
  clean(at)
})

test('a page whose session has ended meanwhile leads to the sign-in', { skip }, async () => {
  const at = await passkeyOwner(site)
  const { page } = at
  await page.goto(`${origin}/account/security`)
  const card = page.locator('.card', { hasText: 'Make new recovery codes' })
  await card.locator('summary').click()
  await clinic.database.admin(`update redoubt.sessions set revoked_at = now() where user_id = $1`, [at.someone.id])
  await card.getByRole('button', instead).click()
  await page.waitForURL(`${origin}/sign-in`)
})
