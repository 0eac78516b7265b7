import type { CDPSession } from 'playwright-core'
import type { Visit } from './chromium.ts'
import type { Someone } from './clinic.ts'
import type { Site } from './site.ts'

/** The device in front of somebody, which keeps passkeys: an authenticator of Chromium's own, over its debugging protocol. */
export type Device = { readonly device: CDPSession; readonly authenticator: string }
export type Owner = Visit & Device & { readonly someone: Someone; readonly email: string; readonly password: string }

export async function openDevice({ context, page }: Visit): Promise<Device> {
  const device = await context.newCDPSession(page)
  await device.send('WebAuthn.enable')
  const { authenticatorId: authenticator } = await device.send('WebAuthn.addVirtualAuthenticator', {
    options: { protocol: 'ctap2', transport: 'internal', hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true },
  })
  return { device, authenticator }
}

/** Sets a passkey up on the page of security, signed in. @param proof of who asks: the password, or a code where there is a factor */
export async function setUpPasskey({ page }: Visit, origin: string, proof: string): Promise<void> {
  await page.goto(`${origin}/account/security`)
  await page.locator('summary', { hasText: 'Set up a passkey' }).click()
  const card = page.locator('.card', { hasText: 'Set up a passkey' })
  await card.getByLabel(/Your password|Code from your app/).fill(proof)
  await card.getByRole('button', { name: 'Continue' }).click()
  await page.getByRole('button', { name: 'Make the passkey' }).click()
}

/** Somebody new with a passkey on the device in front of them, signed in. */
export async function passkeyOwner(site: Site): Promise<Owner> {
  const someone = await site.clinic.patient()
  const at = await site.visit()
  const held = await openDevice(at)
  await site.fillIn(at, someone)
  await setUpPasskey(at, site.origin, someone.password)
  await at.page.getByRole('link', { name: 'I have kept them' }).click()
  return { ...at, ...held, someone, email: someone.email, password: someone.password }
}
