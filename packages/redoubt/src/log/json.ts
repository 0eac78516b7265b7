import { isCardNumber } from './scrub.ts'
import { jsonText } from './text.ts'

const mostDepth = 8
const mostMembers = 100
/** Keys whose decision is remembered. Bounded: objects from outside may have any keys. */
const mostKeys = 4096
const mostCauses = 3

type Key = { readonly first: string; readonly next: string; readonly hidden: boolean }
/** Members as they stand inside an object, each behind a comma: `,"a":1,"b":2`. */
type Members = (fields: object) => string

const hiddenValue = '"[redacted]"'

function jsonNumber(value: number): string {
  if (!Number.isFinite(value)) return 'null'
  // A card number fits into a double.
  return value >= 1e12 && isCardNumber(String(value)) ? '"[card]"' : `${value}`
}

function own(value: object, key: string): unknown {
  return (value as Readonly<Record<string, unknown>>)[key]
}

/** Allow-list: drivers hang rows, parameters and requests on their errors. The code is not called `code`: that key hides. */
function jsonError(error: Error, depth: number): string {
  const code = own(error, 'code')
  let out = `{"type":${jsonText(error.name)},"message":${jsonText(error.message)}`
  if (typeof code === 'string' && /^\w{1,40}$/.test(code)) out += `,"errorCode":${jsonText(code)}`
  out += `,"stack":${jsonText(error.stack ?? '')}`
  if (depth < mostCauses && error.cause instanceof Error) out += `,"cause":${jsonError(error.cause, depth + 1)}`
  if (depth < mostCauses && error instanceof AggregateError) {
    const errors = error.errors.slice(0, 5).map((one: unknown) => (one instanceof Error ? jsonError(one, depth + 1) : '"[not an error]"'))
    out += `,"errors":[${errors.join(',')}]`
  }
  return `${out}}`
}

/** Remembers what is decided about each name. */
function keysOf(isHidden: (name: string) => boolean, rename: (name: string) => string): (name: string) => Key {
  const known = new Map<string, Key>()
  return (name) => {
    const found = known.get(name)
    if (found !== undefined) return found
    const first = `${jsonText(rename(name))}:`
    const key = { first, next: `,${first}`, hidden: isHidden(name) }
    if (known.size < mostKeys) known.set(name, key)
    return key
  }
}

/**
 * Makes the serialiser of log fields: JSON in one pass, values under hidden keys never read, every text scrubbed,
 * bytes never shown, cycles and depth bounded. It never throws for what a getter or toJSON does.
 * @param names.hides by the name of a key, at any depth
 * @param names.hidesInEvent the same for the top of an event, whose values never come from outside (events.ts)
 * @param names.reserved keys of the line itself; a field of that name at the top gets `_` in front (no forged level or time)
 * @returns `fields` for what callers pass, `event` for members of the event union
 */
export function jsonMembers(names: {
  readonly hides: (name: string) => boolean
  readonly hidesInEvent: (name: string) => boolean
  readonly reserved: ReadonlySet<string>
}): { readonly fields: Members; readonly event: Members } {
  const unreserved = (name: string): string => (names.reserved.has(name) ? `_${name}` : name)
  const inside = keysOf(names.hides, (name) => name)

  function jsonObject(value: object, depth: number, above: object[]): string {
    // Cheaper than asking for the prototype. JSON from outside can make this differ, which only takes the longer way.
    if (value.constructor !== Object && !Array.isArray(value)) {
      const special = jsonSpecial(value, depth, above)
      if (special !== null) return special
    }
    if (depth >= mostDepth) return '"[too deep]"'
    for (let i = 0; i < depth; i++) if (above[i] === value) return '"[circular]"'
    above[depth] = value
    return Array.isArray(value) ? jsonList(value, depth, above) : `{${members(value, inside, depth + 1, above)}}`
  }

  function jsonList(value: readonly unknown[], depth: number, above: object[]): string {
    let out = '['
    const count = Math.min(value.length, mostMembers)
    for (let i = 0; i < count; i++) out += (i === 0 ? '' : ',') + (jsonValue(value[i], depth + 1, above) ?? 'null')
    return `${out}${value.length > count ? ',"[truncated]"]' : ']'}`
  }

  /** What is not a plain object or list; null where it is to be written member by member all the same. */
  function jsonSpecial(value: object, depth: number, above: object[]): string | null {
    if (value instanceof Error) return jsonError(value, 0)
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? 'null' : `"${value.toISOString()}"`
    if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return `"[${value.byteLength} bytes]"`
    if (value instanceof Set) return jsonObject([...value], depth, above)
    if (value instanceof Map) return jsonObject(Object.fromEntries(value as ReadonlyMap<PropertyKey, unknown>), depth, above)
    const toJSON = own(value, 'toJSON')
    if (typeof toJSON !== 'function' || depth >= mostDepth) return null
    return jsonValue(toJSON.call(value), depth + 1, above) ?? 'null'
  }

  function jsonValue(value: unknown, depth: number, above: object[]): string | undefined {
    switch (typeof value) {
      case 'string':
        return jsonText(value)
      case 'number':
        return jsonNumber(value)
      case 'boolean':
        return value ? 'true' : 'false'
      case 'bigint':
        return jsonText(value.toString())
      case 'object':
        return value === null ? 'null' : jsonObject(value, depth, above)
      default:
        return undefined
    }
  }

  function members(value: object, keys: (name: string) => Key, depth: number, above: object[]): string {
    let out = ''
    let count = 0
    // Inherited members too: asking for each whether it is own costs a tenth of the line, and they are hidden alike.
    for (const name in value) {
      if (++count > mostMembers) return `${out},"truncated":true`
      const key = keys(name)
      const start = out === '' ? key.first : key.next
      if (key.hidden) {
        out += start + hiddenValue
        continue
      }
      const member = own(value, name)
      const json = typeof member === 'string' ? jsonText(member) : jsonValue(member, depth, above)
      if (json !== undefined) out += start + json
    }
    return out
  }

  const top = (keys: (name: string) => Key): Members => (value) => {
    try {
      const out = members(value, keys, 0, [])
      return out === '' ? '' : `,${out}`
    } catch {
      return ',"unreadable":true'
    }
  }
  return { fields: top(keysOf(names.hides, unreserved)), event: top(keysOf(names.hidesInEvent, unreserved)) }
}
