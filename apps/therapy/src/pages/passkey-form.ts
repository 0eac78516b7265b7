import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { parseJson } from 'redoubt/http/json'
import type { AuthenticationResponseJSON, PublicKeyCredentialCreationOptionsJSON, PublicKeyCredentialRequestOptionsJSON, RegistrationResponseJSON } from 'redoubt/tokens/factors/passkey'
import type { z } from 'zod'
import { creationResponse, requestResponse } from '../passkey-fields.ts'

/** A form that a passkey answers. */
export type PasskeyForm = {
  readonly action: string
  readonly options: PublicKeyCredentialRequestOptionsJSON | PublicKeyCredentialCreationOptionsJSON
  readonly label: string
  /** A word between this and the other way. */
  readonly divider?: string
  /** Where a new question is asked for, once that of the page is too old; and the browser offers passkeys where the address is filled in. */
  readonly fresh?: `/${string}`
  /** Further fields, such as the CSRF token. */
  readonly fields?: Html
}

/**
 * Only a script can ask for a passkey: without one the form stays hidden, and the other ways are there. What the browser
 * answers goes into the field `response` and is posted like any other form.
 */
export function passkeyForm({ action, options, label, divider, fresh, fields }: PasskeyForm): Html {
  return html`<form method="post" action="${action}" class="passkey" data-passkey="${'user' in options ? 'create' : 'get'}" data-options="${JSON.stringify(options)}"${fresh !== undefined && html` data-fresh="${fresh}"`} hidden>
${divider !== undefined && html`<p class="divider"><span>${divider}</span></p>`}
${fields}<input type="hidden" name="response" value="">
<button class="second">${label}</button>
<p class="fine" role="status"></p>
</form>`
}

/** What navigator.credentials.get() answered, or undefined for anything else. */
export function passkeyResponse(text: string): AuthenticationResponseJSON | undefined {
  return responseOf(requestResponse, text)
}

/** What navigator.credentials.create() answered, or undefined for anything else. */
export function newPasskey(text: string): RegistrationResponseJSON | undefined {
  return responseOf(creationResponse, text)
}

function responseOf<S extends z.ZodType>(schema: S, text: string): z.output<S> | undefined {
  try {
    const parsed = schema.safeParse(parseJson(Buffer.from(text, 'utf8')))
    return parsed.success ? parsed.data : undefined
  } catch (error) {
    if (error instanceof Refusal) return undefined
    throw error
  }
}
