import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { passwordLength } from 'redoubt/tokens/password'
import type { z } from 'zod'
import { waitOf } from './wait.ts'

/** What is wrong with a form: by field, in words for whoever filled it in. */
export type Slips = Readonly<Record<string, string>>

export type Field = {
  readonly name: string
  readonly label: string
  /** As WHATWG HTML names it (§4.10.18.7): what a browser or a password keeper fills in. */
  readonly autocomplete: string
  readonly type?: 'text' | 'email' | 'tel' | 'date' | 'password'
  /** Default the name; a page may have two fields of one name. */
  readonly id?: string
  readonly hint?: string
  readonly value?: string | undefined
  readonly slip?: string | undefined
  /** True: what stands above the form is about this field. */
  readonly marked?: boolean
  /** The most characters the browser takes. */
  readonly most?: number
  /** False: may stay empty, and says so. */
  readonly required?: boolean
  /** First and last day of a date. */
  readonly from?: string
  readonly to?: string
  readonly focus?: boolean
}

/** A field with its label, hint and slip, each of which a screen reader tells with it. */
export function field({ name, label, autocomplete, type = 'text', id = name, hint, value, slip, marked = false, most = 254, required = true, from, to, focus = false }: Field): Html {
  const told = [...(hint === undefined ? [] : [`${id}-hint`]), ...(slip === undefined ? [] : [`${id}-slip`]), ...(marked ? ['wrong'] : [])].join(' ')
  return html`<label for="${id}">${label}${!required && html` <span class="may">(may stay empty)</span>`}</label>
${hint !== undefined && html`<p class="hint" id="${`${id}-hint`}">${hint}</p>`}${slip !== undefined && html`<p class="slip" id="${`${id}-slip`}">${slip}</p>`}
<input id="${id}" name="${name}" type="${type}" autocomplete="${autocomplete}"${type === 'date' ? html` min="${from}" max="${to}"` : html` maxlength="${most}"`}${type !== 'text' && html` autocapitalize="none"`}${required && html` required`}${(slip !== undefined || marked) && html` aria-invalid="true"`}${told !== '' && html` aria-describedby="${told}"`}${focus && html` autofocus`} value="${value}">
`
}

/** A field for a password to be chosen; it never comes back filled in. */
export function newPasswordField(slip: string | undefined, label = 'Password'): Html {
  return field({ name: 'password', label, type: 'password', autocomplete: 'new-password', most: passwordLength.most, slip, hint: `At least ${passwordLength.least} characters. A sentence of some words is fine, and easy to keep in mind.` })
}

/** The field for a code of eight digits from a mail. @param slip true: what stands above the form is about it */
export function mailedCodeField(slip: string | true | undefined, value?: string): Html {
  const told = slip === true ? 'wrong' : 'code-slip'
  return html`<label for="code">Code from the mail</label>${typeof slip === 'string' && html`<p class="slip" id="code-slip">${slip}</p>`}
<input id="code" name="code" class="code" inputmode="numeric" autocomplete="one-time-code" pattern="[0-9 ]*" maxlength="9" required${value === undefined && html` autofocus`} value="${value}"${slip !== undefined && html` aria-invalid="true" aria-describedby="${told}"`}>
`
}

/** Reads what was filled in. @param words what to say of each field that does not fit, whatever is wrong with it */
export function readFields<S extends z.ZodType>(schema: S, given: unknown, words: Slips): { readonly data: z.output<S>; readonly slips?: undefined } | { readonly data?: undefined; readonly slips: Slips } {
  const { data, error } = schema.safeParse(given)
  if (error === undefined) return { data }
  return { slips: Object.fromEntries(error.issues.map(({ path }) => String(path[0])).map((name) => [name, words[name] ?? 'This does not fit.'])) }
}

/** What to say above a form with slips. */
export const lookBelow = 'Something is missing or not right. Please look at what is marked.'

const passwordWords: Readonly<Record<string, string>> = {
  min: `Choose one of at least ${passwordLength.least} characters.`,
  max: `Choose one of at most ${passwordLength.most} characters.`,
  breached: 'This one is on lists of stolen passwords, which are tried first. Choose another.',
  personal: 'This one is made of your own name or address. Choose another.',
}

/** What is wrong with a password that was chosen; undefined for an error of another kind. */
export function passwordSlip(error: unknown): string | undefined {
  if (!(error instanceof Refusal) || error.code !== 'invalid_input') return undefined
  const found = error.fields?.find(({ field: name }) => name === 'password')
  return found === undefined ? undefined : (passwordWords[found.rule] ?? passwordWords['min'])
}

/** What to say of refusals that any form may meet; undefined for others. */
export function busySaid(error: unknown): string | undefined {
  if (!(error instanceof Refusal)) return undefined
  if (error.code === 'too_many_requests') return `There were too many tries. Please wait ${waitOf(error.retryAfter)} and try again.`
  return error.code === 'busy' ? 'Many people are signing in just now. Try again in a few seconds.' : undefined
}
