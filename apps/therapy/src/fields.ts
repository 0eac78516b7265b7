import { parsePhoneNumberFromString } from 'libphonenumber-js/max'
import { rowId } from 'redoubt/http/parse'
import { z } from 'zod'

/**
 * Control characters, separators of lines and paragraphs, halves of a surrogate pair, and what reverses or hides text
 * (Unicode Bidi_Control, zero width, fillers): they let one name look like another. Joiners and variation selectors stay:
 * names are written with them.
 */
const forbidden = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]/u
/** Of these, what has no place in texts of several lines either. */
const forbiddenInText = /[^\P{Cc}\n\t]|[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]/u

function normal(text: string): string {
  return text.normalize('NFC').trim()
}

/** One line: Unicode NFC, trimmed, kept as typed and encoded only at output. Lengths count characters after that. */
export function line(min: number, max: number): z.ZodType<string, string> {
  return z.string().max(max * 4).transform(normal).pipe(z.string().min(min).max(max).refine((text) => !forbidden.test(text), { params: { rule: 'characters' } }))
}

/** Several lines, for messages, notes and records. */
export function prose(max: number): z.ZodType<string, string> {
  return z.string().max(max * 4).transform((text) => normal(text.replaceAll('\r\n', '\n')))
    .pipe(z.string().min(1).max(max).refine((text) => !forbiddenInText.test(text), { params: { rule: 'characters' } }))
}

export const personName = line(1, 100)

/** RFC 5321 addresses as browsers accept them. The domain is lower-cased, the local part stays as written. */
export const email = z.string().max(254).meta({ format: 'email' }).transform(normal).pipe(z.email()).transform((text) => {
  const at = text.lastIndexOf('@')
  return text.slice(0, at) + text.slice(at).toLowerCase()
})

/** A telephone number in any national writing with its country code, kept as E.164. */
export const phone = z.string().max(40).transform((text, context) => {
  const number = parsePhoneNumberFromString(text)
  if (number?.isValid() === true) return number.number
  context.addIssue({ code: 'custom', params: { rule: 'phone' } })
  return z.NEVER
})

/** Digits, letters, dashes: insurance and licence numbers. */
export const reference = z.string().transform(normal).pipe(z.string().regex(/^[A-Za-z0-9][A-Za-z0-9 /-]{2,39}$/))

/** A day that has been, as YYYY-MM-DD. */
export const birthDate = z.iso.date().refine((day) => day >= '1900-01-01' && Date.parse(day) <= Date.now(), { params: { rule: 'range' } })

/** An IANA time zone that this machine knows. */
export const timeZone = z.string().max(64).refine(isTimeZone, { params: { rule: 'time_zone' } })

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return /^[A-Za-z_]+(\/[A-Za-z0-9_+-]+)*$/.test(name)
  } catch {
    return false
  }
}

export const currency = z.string().regex(/^[A-Z]{3}$/)
/** A point in time with its offset; two writings of one instant are one instant. */
export const instant = z.iso.datetime({ offset: true }).transform((text) => new Date(text))
/** How a point in time leaves: UTC. */
export const utc = z.iso.datetime()
/** The next one must still fit its int4 column. */
export const version = z.int().min(1).max(2_147_483_646)
export const idParams = z.strictObject({ id: rowId })
export const versionBody = z.strictObject({ version })
export { rowId }

/** The UTC text of a column that may be null. */
export function utcOf(at: Date): string
export function utcOf(at: Date | null): string | null
export function utcOf(at: Date | null): string | null {
  return at === null ? null : at.toISOString()
}
