import { isUtf8 } from 'node:buffer'
import { Refusal } from '../errors.ts'

const forbidden = new Set(['__proto__', 'constructor', 'prototype'])

/** Keys that reach an object's prototype when somebody merges the value later. */
export function isForbiddenKey(key: string): boolean {
  return forbidden.has(key)
}

/**
 * Parses JSON from outside, stricter than JSON.parse: valid UTF-8, bounded depth, no key twice (two parsers would
 * read two different requests; RFC 8259 §4), no key that reaches a prototype, no lone surrogate and no NUL (they
 * change or fail on the way into PostgreSQL).
 * @param bytes the whole body
 * @param depth greatest nesting, default 32
 * @throws Refusal malformed_request with field `body` and the rule broken
 */
export function parseJson(bytes: Buffer, depth = 32): unknown {
  if (bytes.length === 0) throw malformed('empty')
  if (!isUtf8(bytes)) throw malformed('utf8')
  const text = bytes.toString('utf8')
  // Before JSON.parse: ten thousand brackets must not be built into objects first.
  const keys = countKeys(text, depth)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw malformed('json')
  }
  if (checkTree(value, text.includes('\\u')) !== keys) throw malformed('duplicate_key')
  return value
}

function malformed(rule: string): Refusal {
  return new Refusal('malformed_request', { fields: [{ field: 'body', rule }] })
}

/** The colons outside strings: in valid JSON, the number of keys as written. */
function countKeys(text: string, greatest: number): number {
  let open = 0
  let keys = 0
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22:
        i = endOfString(text, i)
        if (i < 0) throw malformed('json')
        break
      case 0x3a:
        keys++
        break
      case 0x5b:
      case 0x7b:
        if (++open > greatest) throw malformed('depth')
        break
      case 0x5d:
      case 0x7d:
        open--
        break
      default:
    }
  }
  return keys
}

/** Index of the quote that closes the string opened at `start`, or -1. */
function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1)
  while (end > 0) {
    let before = end - 1
    while (text.charCodeAt(before) === 0x5c) before--
    if ((end - before) % 2 === 1) return end
    end = text.indexOf('"', end + 1)
  }
  return -1
}

/** The number of keys that were kept; escapes only need a look when the text has any. */
function checkTree(value: unknown, escapes: boolean): number {
  if (typeof value === 'string') {
    if (escapes) checkText(value)
    return 0
  }
  if (typeof value !== 'object' || value === null) return 0
  let kept = 0
  if (Array.isArray(value)) {
    for (const item of value as unknown[]) kept += checkTree(item, escapes)
    return kept
  }
  const record = value as Readonly<Record<string, unknown>>
  for (const key of Object.keys(record)) {
    if (forbidden.has(key)) throw malformed('forbidden_key')
    if (escapes) checkText(key)
    kept += 1 + checkTree(record[key], escapes)
  }
  return kept
}

function checkText(text: string): void {
  if (!text.isWellFormed() || text.includes('\0')) throw malformed('text')
}
