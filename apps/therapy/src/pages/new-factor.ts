import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { confirmTotp, enrolPasskey, enrolTotp, factorPurposes, passkeyOptions } from 'redoubt/tokens/factors/enrol'
import { encode } from 'uqr'
import { z } from 'zod'
import type { App } from '../app.ts'
import { ownEmail } from '../factor-routes.ts'
import { line, rowId } from '../fields.ts'
import type { Asking } from './doors.ts'
import { frame, token } from './frame.ts'
import { newPasskey, passkeyForm } from './passkey-form.ts'
import { proofField, proven } from './proof.ts'
import { codesPage, corrected, isGuarded } from './security.ts'

const label = line(1, 60)
const added = '/account/security?note=added'

/** Setting up an authenticator app or a passkey: a fresh proof first, then the thing itself, then recovery codes with the first. */
export function newFactorPages(app: App, roles: readonly [string, ...string[]]): readonly Route[] {
  const { factors } = app
  return [
    page({
      method: 'POST', path: '/account/security/totp', summary: 'Begins with an authenticator app', access: roles, form: z.strictObject({ label, proof: proofField }),
      handle: async ({ caller, csrf, form }) => {
        try {
          const stepUp = await proven(app, caller, { action: factorPurposes.enrol, resource: caller.actor }, await isGuarded(app, caller), form.proof)
          const { id, secret, uri } = await enrolTotp(factors, caller, { label: form.label, account: await ownEmail(app, caller), stepUp })
          return scanPage(app, { caller, csrf }, { id, shown: { secret, uri } })
        } catch (error) {
          return corrected(app, { caller, csrf }, error)
        }
      },
    }),
    page({
      method: 'POST', path: '/account/security/totp/confirm', summary: 'Confirms an authenticator app by its code', access: roles, form: z.strictObject({ id: rowId, code: z.string().max(12) }),
      handle: async ({ caller, csrf, form }) => {
        const code = form.code.replaceAll(/\s/g, '')
        try {
          if (!/^\d{6}$/.test(code)) throw new Refusal('factor_refused')
          const codes = await confirmTotp(factors, caller, { factor: form.id, code })
          return codes === undefined ? redirect(added) : codesPage(app, codes, { caller, csrf }, added)
        } catch (error) {
          if (!(error instanceof Refusal) || error.code !== 'factor_refused') return corrected(app, { caller, csrf }, error)
          return show(scanPage(app, { caller, csrf }, { id: form.id, wrong: 'This code is not right. Wait for the next one and enter it.' }), { status: 422 })
        }
      },
    }),
    page({
      method: 'POST', path: '/account/security/passkey', summary: 'Begins with a passkey', access: roles, form: z.strictObject({ label, proof: proofField }),
      handle: async ({ caller, csrf, form }) => {
        try {
          const stepUp = await proven(app, caller, { action: factorPurposes.enrol, resource: caller.actor }, await isGuarded(app, caller), form.proof)
          const options = await passkeyOptions(factors, caller, { account: await ownEmail(app, caller) })
          const fields = html`${token(csrf)}<input type="hidden" name="label" value="${form.label}"><input type="hidden" name="step_up" value="${stepUp}">`
          return frame(app.identity.realm, {
            title: 'New passkey', by: { caller, csrf }, here: '/account/security', passkeys: true,
            content: html`<section class="card"><p>Your browser will ask where to keep the passkey, and for your finger, your face or the PIN of the device.</p>
${passkeyForm({ action: '/account/security/passkey/confirm', options, label: 'Make the passkey', fields })}<noscript><p>This needs JavaScript.</p></noscript></section>`,
          })
        } catch (error) {
          return corrected(app, { caller, csrf }, error)
        }
      },
    }),
    page({
      method: 'POST', path: '/account/security/passkey/confirm', summary: 'Keeps a passkey that the browser made', access: roles, limit: 64 * 1024,
      form: z.strictObject({ label, step_up: z.string().max(64), response: z.string().max(40_000) }),
      handle: async ({ caller, csrf, form }) => {
        try {
          const response = newPasskey(form.response)
          if (response === undefined) throw new Refusal('factor_refused')
          const { recoveryCodes } = await enrolPasskey(factors, caller, { label: form.label, response, stepUp: form.step_up })
          return recoveryCodes === undefined ? redirect(added) : codesPage(app, recoveryCodes, { caller, csrf }, added)
        } catch (error) {
          return corrected(app, { caller, csrf }, error)
        }
      },
    }),
  ]
}

/** The QR code of a text, drawn here: no script, and nobody else's server learns the secret. */
function qrCode(text: string): Html {
  const { size, data } = encode(text, { ecc: 'M', border: 3 })
  const path = data.flatMap((row, y) => row.flatMap((black, x) => (black ? [`M${x} ${y}h1v1h-1z`] : []))).join('')
  return html`<svg class="qr" viewBox="0 0 ${size} ${size}" role="img" aria-label="QR code for your authenticator app" shape-rendering="crispEdges"><rect width="${size}" height="${size}" fill="#fff"/><path d="${path}" fill="#000"/></svg>`
}

function scanPage({ identity }: App, by: Asking, { id, shown, wrong }: { readonly id: string; readonly shown?: { readonly secret: string; readonly uri: string }; readonly wrong?: string }): Html {
  return frame(identity.realm, {
    title: 'New authenticator app', by, here: '/account/security', wrong,
    content: html`<section class="card">${shown !== undefined && html`<p>Scan this with the app, or type the key into it.</p>
${qrCode(shown.uri)}<p class="key"><span class="unseen">Key: </span><code>${(shown.secret.match(/.{1,4}/g) ?? []).join(' ')}</code></p>`}
<form method="post" action="/account/security/totp/confirm">${token(by.csrf)}<input type="hidden" name="id" value="${id}">
<label for="code">Code that the app shows now</label>
<input id="code" name="code" class="code" inputmode="numeric" autocomplete="one-time-code" pattern="[0-9 ]*" maxlength="7" required autofocus${wrong !== undefined && html` aria-invalid="true" aria-describedby="wrong"`}>
<button>Confirm</button></form></section>`,
  })
}
