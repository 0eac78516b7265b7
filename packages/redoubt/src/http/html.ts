declare const mark: unique symbol
/** Text that is HTML already. Only `html` makes one, so that no page is put together from plain texts. */
export type Html = { readonly [mark]: true }
export type HtmlValue = string | number | Html | readonly Html[] | null | undefined | false

const texts = new WeakMap<object, string>()
const escapes: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' }
const unquoted = /=\s*$/
const inScript = /<(?:script|style)\b[^>]*>[^<]*$/i
const inTag = /<(?:[a-z/!?][^<>]*)?$/i
const inAttribute = /[\w-]+\s*=\s*"[^"]*$/
const address = /\b(?:href|src|action|formaction)\s*=\s*"$/i

/**
 * HTML from a template: `html\`<p title="${title}">${text}</p>\``. Every value is escaped where it goes out (never where
 * it comes in); null, undefined and false are nothing; lists of Html are joined. Attributes stand in double quotes.
 * @throws TypeError for a value where escaping does not help: in a tag outside a quoted attribute, in a script or style,
 *   or an address that leads elsewhere than to a path of this service
 */
export function html(parts: TemplateStringsArray, ...values: readonly HtmlValue[]): Html {
  let text = parts[0] ?? ''
  for (const [i, value] of values.entries()) {
    const before = parts[i] ?? ''
    checkPlace(text, before, value)
    text += textOf(value) + (parts[i + 1] ?? '')
  }
  return made(text)
}

function checkPlace(text: string, before: string, value: HtmlValue): void {
  if (unquoted.test(before)) throw new TypeError('html: an attribute needs double quotes around its value')
  // From the last < on: what stands before it cannot decide where we are, because texts have their < escaped.
  const here = text.slice(text.lastIndexOf('<'))
  if (inScript.test(here)) throw new TypeError('html: no values in scripts and styles')
  // A word of the template's author, such as html` checked`, may stand in a tag; a text may not.
  const authored = value === null || value === undefined || value === false || (typeof value === 'object' && texts.has(value))
  if (inTag.test(here) && !inAttribute.test(here) && !authored) throw new TypeError('html: a value in a tag stands in a quoted attribute')
  if (address.test(before) && !(typeof value === 'string' && (isOwnPath(value) || /^#[\w-]+$/.test(value)))) throw new TypeError('html: an address must be a path of this service')
}

/** The text of what `html` made. @throws TypeError for anything else */
export function htmlText(page: unknown): string {
  const text = typeof page === 'object' && page !== null ? texts.get(page) : undefined
  if (text === undefined) throw new TypeError('htmlText: only what html`…` made is a page')
  return text
}

/** A path of this service, which no browser reads as another host: `//evil`, `/\evil` and control characters are not. */
export function isOwnPath(text: string): boolean {
  return /^\/(?![/\\])[\x21\x23-\x3b\x3d\x3f-\x5b\x5d-\x7e]*$/.test(text) && text.length <= 2048
}

function made(text: string): Html {
  const page = Object.freeze({}) as Html
  texts.set(page, text)
  return page
}

function textOf(value: HtmlValue): string {
  if (value === null || value === undefined || value === false) return ''
  if (typeof value === 'string') return value.replace(/[&<>"']/g, (character) => escapes[character] ?? '')
  if (typeof value === 'number') return String(value)
  return Array.isArray(value) ? value.map(htmlText).join('') : htmlText(value)
}
