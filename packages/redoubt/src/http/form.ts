import { Refusal } from '../errors.ts'
import { isForbiddenKey } from './json.ts'

const mostFields = 64
const control = /[\u0000-\u0008\u000b-\u001f\u007f]/

function malformed(rule: string): Refusal {
  return new Refusal('malformed_request', { fields: [{ field: 'body', rule }] })
}

/**
 * A form's body (application/x-www-form-urlencoded, URL standard §5.1) as a record of texts, stricter than the standard:
 * ASCII only, valid UTF-8 behind the escapes, no name twice, none that reaches a prototype, no control characters but
 * tab and line feed (the CR LF of a text field becomes a line feed).
 * @throws Refusal malformed_request
 */
export function parseForm(bytes: Buffer): Record<string, string> {
  const out: Record<string, string> = Object.create(null) as Record<string, string>
  const text = bytes.toString('latin1')
  if (text === '') return out
  if (!/^[\x21-\x7e]*$/.test(text)) throw malformed('form')
  const pairs = text.split('&')
  if (pairs.length > mostFields) throw malformed('length')
  for (const pair of pairs) {
    const equals = pair.indexOf('=')
    if (equals < 1) throw malformed('form')
    const name = decode(pair.slice(0, equals))
    const value = decode(pair.slice(equals + 1)).replaceAll('\r\n', '\n')
    if (isForbiddenKey(name)) throw malformed('forbidden_key')
    if (name in out) throw malformed('duplicate_key')
    if (control.test(name) || control.test(value)) throw malformed('text')
    out[name] = value
  }
  return out
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text.replaceAll('+', ' '))
  } catch {
    throw malformed('encoding')
  }
}
