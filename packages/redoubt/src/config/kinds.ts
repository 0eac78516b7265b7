import { isIP } from 'node:net'
import { z } from 'zod'
import { keyStrength, passwordStrength, weaknessOf } from './weakness.ts'

/** How the text of a setting becomes a value, and what production refuses in it. */
export type Kind<T> = {
  /** Parses the text of the environment. Its messages must not repeat the text. */
  readonly schema: z.ZodType<T, string>
  /** A reason to refuse the value in production, or null. Must not repeat the value. */
  refuse?(value: T): string | null
}

/** A whole number from `least` to `most`. */
export function integer(least: number, most: number): Kind<number> {
  const rule = `must be a whole number from ${least} to ${most}`
  const schema = z
    .string()
    .regex(/^\d{1,15}$/, rule)
    .transform(Number)
    .refine((value) => value >= least && value <= most, rule)
  return { schema }
}

/** One of the named words. */
export function oneOf<const W extends string>(...words: readonly [W, ...W[]]): Kind<W> {
  return { schema: z.enum(words, `must be one of ${words.join(', ')}`) }
}

/** `true` or `false`, nothing else: "no" read as true has opened doors. */
export function flag(): Kind<boolean> {
  return { schema: z.enum(['true', 'false'], 'must be true or false').transform((word) => word === 'true') }
}

/**
 * Names with a word each, comma-separated: `csrf=report,https=enforce`; a name once at most. A word that production must
 * not have carries `insecure-` in front where it is meant all the same.
 * @param unsafe the words production refuses
 */
export function assignments<const N extends string, const W extends string>(names: readonly N[], words: readonly W[], unsafe: readonly W[]): Kind<Readonly<Partial<Record<N, W>>>> {
  const rule = `must be <name>=<word>, comma-separated, each name once: ${names.join(', ')}; ${words.join(', ')}`
  const pairsOf = (text: string): readonly (readonly [string, string])[] => text.split(',').filter((part) => part.trim() !== '').map((part) => {
    const [name = '', word = '', ...rest] = part.split('=')
    return [name.trim(), rest.length > 0 ? '' : word.trim()]
  })
  const fits = (text: string): boolean => {
    const pairs = pairsOf(text)
    return new Set(pairs.map(([name]) => name)).size === pairs.length && pairs.every(([name, word]) => (names as readonly string[]).includes(name) && (words as readonly string[]).includes(word))
  }
  return {
    schema: z.string().refine(fits, rule).transform((text) => Object.fromEntries(pairsOf(text)) as Partial<Record<N, W>>),
    refuse: (given) => (Object.values<W | undefined>(given).some((word) => word !== undefined && unsafe.includes(word)) ? `must not have ${unsafe.join(' or ')} in production; insecure-${unsafe[0] ?? ''} where it is meant` : null),
  }
}

/** A flag that must be off in production. */
export function insecureFlag(why: string): Kind<boolean> {
  return { ...flag(), refuse: (on) => (on ? `must be false in production: ${why}` : null) }
}

/** Free text without line breaks, for paths and names. */
export function line(): Kind<string> {
  return { schema: z.string().regex(/^[^\0\r\n]{1,4096}$/, 'must be one line') }
}

/** Text that is worth something only while nobody else knows it. */
export function secretText(strength = keyStrength): Kind<string> {
  return { schema: line().schema, refuse: (value) => weaknessOf(value, strength) }
}

function isOrigin(text: string): boolean {
  return URL.canParse(text) && new URL(text).origin === text && /^https?:/.test(text)
}

function refuseOrigin(text: string): string | null {
  return text.startsWith('https:') ? null : 'must be https: in production'
}

/** A web origin exactly as a browser sends it (RFC 6454 §6.2): no path, no wildcard, no `null`. */
export function origin(): Kind<string> {
  const rule = 'must be an origin such as https://app.example.org, without a path or final slash'
  return { schema: z.string().refine(isOrigin, rule), refuse: refuseOrigin }
}

/** A comma-separated list, each member by `kind`; an empty text is the empty list. */
export function listOf<T>(kind: Kind<T>): Kind<readonly T[]> {
  const schema = z
    .string()
    .transform((text) => text.split(',').map((member) => member.trim()).filter((member) => member !== ''))
    .pipe(z.array(kind.schema))
  return { schema, refuse: (values) => values.map((value) => kind.refuse?.(value) ?? null).find((problem) => problem !== null) ?? null }
}

function isProxy(text: string): boolean {
  const [address = '', prefix, ...rest] = text.split('/')
  const version = isIP(address)
  if (version === 0 || rest.length > 0) return false
  if (prefix === undefined) return true
  const bits = /^\d{1,3}$/.test(prefix) ? Number(prefix) : -1
  // fc00::/7 and 10.0.0.0/8 are the widest private ranges; anything wider trusts strangers.
  return version === 4 ? bits >= 8 && bits <= 32 : bits >= 7 && bits <= 128
}

/**
 * Addresses or networks (CIDR) of the proxies whose X-Forwarded-For is believed, or `hops:1` to `hops:5` alone where they
 * have no fixed address. `true` would believe whoever connects: the limiter and the audit trail would then record what
 * the attacker writes. A number of hops believes whoever can connect to this port, so nobody else must be able to.
 */
export function proxies(): Kind<readonly string[]> {
  const rule = 'must be a list of addresses or networks, or hops:1 to hops:5 alone; never true or the whole internet'
  const list = listOf({ schema: z.string().refine((text) => isProxy(text) || /^hops:[1-5]$/.test(text), rule) })
  return { ...list, schema: list.schema.refine((given) => given.length < 2 || given.every(isProxy), rule) }
}

/** Where the key-encryption keys live: `local:<path>`, `aws:<key>`, `azure:<key>` or `vault:<key>`; kms.ts reads the rest. */
export function keyService(): Kind<string> {
  const rule = 'must be local:<path>, aws:<key ARN or alias>?region=<region>, azure:https://<vault>/keys/<name>?sign=<name> or vault:<mount>/<key>'
  const schema = z.string().regex(/^(?:local:(?=\S)[^\0\r\n]+|aws:\S+|azure:https?:\/\/\S+|vault:(?:https?:\/\/)?[^\s/]+\/\S+)$/, rule)
  const refuse = (value: string): string | null => {
    if (value.startsWith('local:')) return 'must not be the local key provider in production'
    return /^[a-z]+:http:/.test(value) ? 'must be https: in production' : null
  }
  return { schema, refuse }
}

/** Whether the escapes of a URL stand for text: user and password are decoded before they are used. */
function decodes(text: string): boolean {
  try {
    return decodeURIComponent(text) !== ''
  } catch {
    return false
  }
}

/** Where mail goes: a folder for development, or a server over TLS. It may hold a password: always a secret. */
export function mailServer(): Kind<string> {
  const rule = 'must be file:<folder>, smtp://user:password@host:port (STARTTLS) or smtps://user:password@host:port'
  const isServer = (text: string): boolean => /^smtps?:\/\/[^\s/]+\/?$/.test(text) && URL.canParse(text) && new URL(text).hostname !== '' && decodes(text)
  const schema = z.string().refine((text) => /^file:[^\0\r\n]+$/.test(text) || isServer(text), rule)
  return { schema, refuse: (value) => (value.startsWith('file:') ? 'must be a mail server in production' : null) }
}

/** One e-mail address, without a name. */
export function mailAddress(): Kind<string> {
  return { schema: z.email('must be one e-mail address') }
}

const loopback = /^(?:localhost|127(?:\.\d{1,3}){3}|\[::1\]|::1)$/

function parseDatabaseUrl(text: string): URL | null {
  // user:password@/database has no host of its own; the driver accepts it with ?host=/run/…, the URL standard does not.
  const whole = text.replace(/@(?=\/)/, '@socket.invalid')
  if (!/^postgres(?:ql)?:\/\//.test(whole) || !URL.canParse(whole)) return null
  const url = new URL(whole)
  // The driver takes the last of a repeated parameter and lets ?host= win over the authority, so neither may hide here.
  const names = [...url.searchParams.keys()]
  return new Set(names).size === names.length && url.pathname.length > 1 ? url : null
}

function refuseDatabase(text: string): string | null {
  const url = parseDatabaseUrl(text)
  if (url === null) return 'is not a PostgreSQL URL'
  const parameters = url.searchParams
  const host = decodeURIComponent(parameters.get('host') ?? url.hostname)
  const password = decodeURIComponent(parameters.get('password') ?? url.password)
  const weakness = password === '' ? null : weaknessOf(password, passwordStrength)
  if (weakness !== null) return `has a password that ${weakness}`
  if (host.startsWith('/') || loopback.test(host)) return null
  if (host === '' || host === 'socket.invalid') return 'must name its host'
  if (parameters.get('sslmode') !== 'verify-full') return 'must use sslmode=verify-full (unless a unix socket or loopback)'
  return parameters.has('ssl') ? 'must not carry ssl= beside sslmode=verify-full' : null
}

function refuseRedis(text: string): string | null {
  const { protocol, hostname, password } = new URL(text)
  const inside = loopback.test(hostname)
  if (password === '') return inside ? null : 'must carry a password'
  const weakness = weaknessOf(decodeURIComponent(password), passwordStrength)
  if (weakness !== null) return `has a password that ${weakness}`
  return protocol === 'rediss:' || inside ? null : 'must be rediss: in production (unless loopback)'
}

/** The URL of a Redis or Valkey: redis:// or rediss:// (TLS) with user, password and number of the database. It holds a password: always a secret. */
export function redisUrl(): Kind<string> {
  const rule = 'must be rediss://user:password@host:port/number'
  const isRedis = (text: string): boolean => /^rediss?:\/\/[^/?#]+(?:\/\d{0,3})?$/.test(text) && URL.canParse(text) && new URL(text).hostname !== ''
  return { schema: z.string().refine(isRedis, rule), refuse: refuseRedis }
}

/** A PostgreSQL URL with one host and a database, each parameter at most once. It holds a password: always a secret. */
export function databaseUrl(): Kind<string> {
  const rule = 'must be postgresql://user:password@host/database with each parameter at most once'
  return { schema: z.string().refine((text) => parseDatabaseUrl(text) !== null, rule), refuse: refuseDatabase }
}
