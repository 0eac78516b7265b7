/**
 * Takes out of a text what must not stand in a log whatever its key is called: card numbers (Luhn), IBANs (mod 97),
 * e-mail addresses, JWTs, bearer tokens, logins in URLs, passwords in `name=value`, cookies, private keys, vendors'
 * keys, one-time codes. Rather one number too many than one too few: a masked order number costs a look-up, a logged
 * card number an incident. Every repetition is bounded, so that no text makes a pattern run for seconds.
 */

const jwt = /eyJ[\w-]{6,}(?:\.[\w-]*){0,4}/g
const scheme = /\b(bearer|basic|dpop)(\s{1,4}|%20|\+)[\w.~+/=%-]{6,}/gi
const privateKey = /-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|$)/g
const vendorKey = /\b(?:[srp]k_(?:live|test)_|whsec_|gh[pousr]_|xox[abpr]-|AKIA|ASIA|hvs\.)[A-Za-z0-9+/=_-]{8,}/g
const urlLogin = /([a-z][a-z0-9+.-]{0,15}:\/\/)[^\s/]{1,384}@/gi
const email = /[^\s@"'`<>(),:;/\\[\]{}=&?|]{1,64}(?:@|%40)(?:[\p{L}\p{N}-]{1,63}\.){1,8}\p{L}{2,24}/giu
const cookie = /(cookie2?\\?["']?\s{0,4}[:=]\s{0,4}\\?["']?)[^\r\n"']+/gi
const named =
  /((?:passw(?:or)?d|passphrase|passcode|secret|token|authorization|api[-_]?key|cvv2?|cvc2?|otp|pin)[\w-]{0,40}\\?["']?(?:\s{0,4}[=:]\s{0,4}|\s{1,4}is\s{1,4}))(?:(\\?["'])(?:\\.|[^\r\n\\]){0,2048}?(?:\2|(?=[\r\n])|$)|[^\s"'&,;}\\]+)/gi
const codeWord = /one[- ]?time|verification|security code|log-?in code|sign-?in code|passcode|\botp\b|\bpin\b|\btan\b/i
const codeAfter = /\b(code)(\W{0,3}(?:is\W{1,3})?)\d{4,8}\b/gi
const shortNumber = /(?<![\d.:\w-])(?:\d{3}[ -]\d{3}|\d{4,8})(?![\d\w])/g
const digits = /\d(?:(?:[ .\-_+/\t\u00a0]|%20){0,2}\d){11,}/g
const separator = /(?:[ .\-_+/\t\u00a0]|%20)+/
const iban = /(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}/g

/** ISO/IEC 7812-1 Annex B. */
function luhn(number: string): boolean {
  let sum = 0
  for (let i = number.length - 1, double = false; i >= 0; i--, double = !double) {
    const digit = number.charCodeAt(i) - 48
    sum += double ? (digit > 4 ? digit * 2 - 9 : digit * 2) : digit
  }
  return sum % 10 === 0
}

/** 13 to 19 digits of a payment scheme (2 to 6; 1 for the 15 digits of UATP and old JCB). Times in ms, µs, ns begin with 1. */
export function isCardNumber(number: string): boolean {
  const { length } = number
  const first = number.charCodeAt(0)
  if (length < 13 || length > 19) return false
  return ((first >= 50 && first <= 54) || (first === 49 && length === 15)) && luhn(number)
}

/** A run of digits may hold a card number beside other numbers, so every sequence of whole groups is tried. */
function hidesCard(run: string): boolean {
  const groups = run.split(separator)
  for (let from = 0; from < groups.length; from++) {
    let number = ''
    for (let to = from; to < groups.length && number.length < 20; to++) {
      number += groups[to] ?? ''
      if (isCardNumber(number)) return true
    }
  }
  return false
}

/** ISO 13616-1: the country and check digits moved behind, letters as 10 to 35, modulo 97. */
function isIban(text: string): boolean {
  const compact = text.replace(/[ -]/g, '')
  let remainder = 0
  for (const character of compact.slice(4) + compact.slice(0, 4)) {
    const value = Number.parseInt(character, 36)
    remainder = (remainder * (value > 9 ? 100 : 10) + value) % 97
  }
  return remainder === 1
}

/** What looks like the start of an IBAN may swallow the real one behind it, so the search goes on one character later. */
function withoutIbans(text: string): string {
  let out = ''
  let done = 0
  iban.lastIndex = 0
  for (let match = iban.exec(text); match !== null; match = iban.exec(text)) {
    let end = match[0].length
    while (end >= 15 && !isIban(match[0].slice(0, end))) end--
    if (end >= 15) {
      out += `${text.slice(done, match.index)}[iban]`
      done = match.index + end
    }
    iban.lastIndex = end >= 15 ? done : match.index + 1
  }
  return out + text.slice(done)
}

/**
 * @param text any text
 * @returns the same text without what must not be logged
 */
export function scrub(text: string): string {
  let out = text
    .replace(privateKey, '[private key]')
    .replace(jwt, '[jwt]')
    .replace(scheme, '$1 [token]')
    .replace(vendorKey, '[key]')
    .replace(urlLogin, '$1[login]@')
    .replace(email, '[email]')
    .replace(cookie, '$1[redacted]')
    .replace(named, '$1[redacted]')
  out = withoutIbans(out).replace(digits, (run) => (hidesCard(run) ? '[card]' : run))
  if (codeWord.test(out)) out = out.replace(shortNumber, '[code]')
  return out.replace(codeAfter, '$1$2[code]')
}
