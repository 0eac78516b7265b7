import type { Kind } from './config/kinds.ts'
import { misspelt } from './config/names.ts'

export { assignments, databaseUrl, flag, insecureFlag, integer, keyService, line, listOf, mailAddress, mailServer, oneOf, origin, proxies, redisUrl, secretText } from './config/kinds.ts'
export type { Kind } from './config/kinds.ts'

export type Mode = 'production' | 'development' | 'test'
/** The environment as the process got it. */
export type Environment = Readonly<Record<string, string | undefined>>
/** Where values come from. `readFile` gives the text of a mounted file and throws when it cannot. */
export type Sources = { readonly env: Environment; readonly mode: Mode; readonly readFile: (path: string) => string }
/** `secret`: worth something to a thief. `plain`: may be shown. */
export type SettingClass = 'secret' | 'plain'

export type Setting<T = unknown, Absent = unknown> = {
  readonly class: SettingClass
  readonly kind: Kind<T>
  readonly about: string
  /** Who answers for it and changes it: a role of the operating team. */
  readonly owner: string
  /** Days after which it must have been replaced; null for what does not wear out. */
  readonly rotateDays: number | null
  readonly required: 'always' | 'production' | 'never'
  /** Text used where nothing is set and the setting is not required. Secrets have none. */
  readonly fallback: string | null
  /** Only for the type: undefined where the value may be absent. */
  readonly absent?: Absent
}

export type Problem = { readonly name: string; readonly problem: string }

type Values<S> = { readonly [N in keyof S]: S[N] extends Setting<infer T, infer A> ? T | A : never }

export type Settings<S extends Readonly<Record<string, Setting>> = Readonly<Record<string, Setting>>> = {
  /** What the app's own variables begin with, to find misspelt ones: `THERAPY_`. */
  readonly prefix: string
  readonly settings: S
  /** Rules over several settings. They see only what parsed, in production and elsewhere. */
  readonly rules: readonly ((values: Partial<Values<S>>, mode: Mode) => readonly Problem[])[]
}

/** What readConfig returns for a spec. */
export type Config<D> = D extends Settings<infer S> ? Values<S> : never

type Common = { readonly about: string; readonly owner: string }
type Required = Setting['required']
type AbsentBy<R extends Required> = R extends 'always' ? never : undefined

/**
 * A setting whose value must stay secret. It has no default, ever.
 * @param more rotateDays: days after which it must have been replaced
 */
export function secret<T, R extends Required>(
  kind: Kind<T>,
  more: Common & { readonly required: R; readonly rotateDays: number },
): Setting<T, AbsentBy<R>> {
  if ('fallback' in more) throw new TypeError('secret: fallback must not be given; a secret has no default')
  if (!(more.rotateDays > 0)) throw new TypeError('secret: rotateDays must be a number above 0')
  return { class: 'secret', kind, fallback: null, ...more }
}

/** A setting that may be shown. With a fallback it is never undefined; `required: 'production'` refuses the fallback there. */
export function plain<T, R extends Required, F extends string | undefined = undefined>(
  kind: Kind<T>,
  more: Common & { readonly required: R; readonly fallback?: F },
): Setting<T, F extends string ? never : AbsentBy<R>> {
  return { class: 'plain', kind, rotateDays: null, ...more, fallback: more.fallback ?? null }
}

/** The configuration is refused; every problem at once, by name, never by value. */
export class ConfigProblem extends TypeError {
  override readonly name = 'ConfigProblem'
  readonly problems: readonly Problem[]

  constructor(problems: readonly Problem[]) {
    super(`the configuration is refused:\n${problems.map(({ name, problem }) => `  ${name} ${problem}`).join('\n')}`)
    this.problems = problems
  }
}

/**
 * The settings of an app, checked once.
 * @throws TypeError when a name is not upper case, ends in _FILE, or a fallback does not parse
 */
export function defineSettings<const S extends Readonly<Record<string, Setting>>>(spec: Settings<S>): Settings<S> {
  if (!/^[A-Z][A-Z0-9]*_$/.test(spec.prefix)) throw new TypeError('defineSettings: prefix must be like THERAPY_')
  for (const [name, setting] of Object.entries<Setting>(spec.settings)) {
    if (!/^[A-Z][A-Z0-9_]*$/.test(name) || name.endsWith('_FILE')) {
      throw new TypeError(`defineSettings: ${name} must be upper case and not end in _FILE`)
    }
    if (setting.owner === '' || setting.about === '') throw new TypeError(`defineSettings: ${name} needs owner and about`)
    if (setting.fallback !== null && parse(setting, setting.fallback).problem !== null) {
      throw new TypeError(`defineSettings: the fallback of ${name} is not acceptable to its kind`)
    }
  }
  return Object.freeze(spec)
}

/**
 * The mode a process runs in. Nothing set means production: a forgotten variable must not open doors.
 * @throws ConfigProblem when NODE_ENV is another word
 */
export function modeOf(env: Environment): Mode {
  const word = env['NODE_ENV'] ?? 'production'
  if (word === 'production' || word === 'development' || word === 'test') return word
  throw new ConfigProblem([{ name: 'NODE_ENV', problem: 'must be production, development or test' }])
}

/** Variables that change how Node or a driver behaves behind the settings' back; refused in production. */
const dangerous: readonly (Problem & { readonly when?: string })[] = [
  { name: 'NODE_TLS_REJECT_UNAUTHORIZED', when: '0', problem: 'must not switch certificate checks off' },
  { name: 'NODE_DEBUG', problem: 'must not be set: it prints headers and bodies' },
  { name: 'PGOPTIONS', problem: 'must not be set: the driver would send it with every connection' },
  { name: 'AWS_SECRET_ACCESS_KEY', problem: 'must not be set: use the workload identity, not a long-lived key' },
  { name: 'AZURE_CLIENT_SECRET', problem: 'must not be set: use the managed identity, not a client secret' },
]

export type Found = {
  readonly name: string
  readonly setting: Setting
  readonly source: 'environment' | 'file' | 'default' | 'absent'
  readonly problem: string | null
}
type Read = Found & { readonly value: unknown }

/** What a schema says of a text no setting has. */
function messageOf(setting: Setting, text: string): string {
  return setting.kind.schema.safeParse(text).error?.issues[0]?.message ?? ''
}

/** A schema may echo its input in a message: of a secret only what it says of any other text too is passed on. */
function parse(setting: Setting, text: string): { readonly value: unknown; readonly problem: string | null } {
  try {
    const result = setting.kind.schema.safeParse(text)
    if (result.success) return { value: result.data, problem: null }
    const message = result.error.issues[0]?.message ?? ''
    const safe = message === messageOf(setting, '\0') || (setting.class === 'plain' && !message.includes(text))
    return { value: undefined, problem: safe && message !== '' ? message : 'is not acceptable' }
  } catch {
    return { value: undefined, problem: 'is not acceptable' }
  }
}

function textOf(name: string, setting: Setting, from: Sources): { readonly source: Found['source']; readonly text: string | null; readonly problem: string | null } {
  const direct = from.env[name]
  const path = from.env[`${name}_FILE`]
  const isSet = direct !== undefined && (direct !== '' || setting.class === 'secret')
  if (isSet && path !== undefined) return { source: 'environment', text: null, problem: `and ${name}_FILE are both set` }
  if (isSet) return { source: 'environment', text: direct, problem: direct === '' ? 'is empty' : null }
  if (path === undefined) return { source: 'absent', text: null, problem: null }
  try {
    const text = from.readFile(path).replace(/\r?\n$/, '')
    return { source: 'file', text, problem: text === '' ? 'is empty' : null }
  } catch {
    return { source: 'file', text: null, problem: 'cannot be read from its file' }
  }
}

function readOne(name: string, setting: Setting, from: Sources): Read {
  const { source, text, problem } = textOf(name, setting, from)
  if (problem !== null) return { name, setting, source, value: undefined, problem }
  if (text !== null) {
    const parsed = parse(setting, text)
    const refused = parsed.problem === null && from.mode === 'production' ? (setting.kind.refuse?.(parsed.value) ?? null) : null
    return { name, setting, source, value: parsed.value, problem: parsed.problem ?? refused }
  }
  const required = setting.required === 'always' || (setting.required === 'production' && from.mode === 'production')
  if (setting.fallback !== null && !required) {
    return { name, setting, source: 'default', value: parse(setting, setting.fallback).value, problem: null }
  }
  return { name, setting, source: 'absent', value: undefined, problem: required ? 'is not set' : null }
}

function readAll(spec: Settings, from: Sources): { readonly read: readonly Read[]; readonly others: readonly Problem[] } {
  const read = Object.entries(spec.settings).map(([name, setting]) => readOne(name, setting, from))
  const values = Object.fromEntries(read.filter((one) => one.problem === null).map((one) => [one.name, one.value]))
  const others = spec.rules.flatMap((rule) => rule(values, from.mode))
  if (from.mode !== 'production') return { read, others }
  const present = Object.keys(from.env).filter((name) => from.env[name] !== undefined)
  const strange = misspelt(Object.keys(spec.settings), spec.prefix, present).map(({ name, meant }) => ({
    name,
    problem: meant === null ? 'is not a setting of this app' : `is not a setting; is ${meant} meant?`,
  }))
  const harmful = dangerous.filter(({ name, when }) => when === undefined ? present.includes(name) : from.env[name] === when)
  return { read, others: [...others, ...strange, ...harmful.map(({ name, problem }) => ({ name, problem }))] }
}

/**
 * The configuration, frozen, or every problem at once. Secrets are not enumerable in it: printing, spreading or
 * serialising the whole object shows none of them.
 * @param spec made by defineSettings
 * @param from the environment, the mode and a reader of mounted files (`NAME_FILE`)
 * @throws ConfigProblem with a list of { name, problem }
 */
export function readConfig<S extends Readonly<Record<string, Setting>>>(spec: Settings<S>, from: Sources): Values<S> {
  const { read, others } = readAll(spec as unknown as Settings, from)
  const problems = [...read.flatMap(({ name, problem }) => (problem === null ? [] : [{ name, problem }])), ...others]
  if (problems.length > 0) throw new ConfigProblem(problems)
  const config = {}
  for (const { name, setting, value } of read) {
    const shown = Array.isArray(value) ? Object.freeze([...(value as readonly unknown[])]) : value
    Object.defineProperty(config, name, { value: shown, enumerable: setting.class === 'plain' })
  }
  return Object.freeze(config) as Values<S>
}

/**
 * What `redoubt config check` prints: each setting, where it comes from and what is wrong with it; never a value.
 * @returns the settings in the order of the spec, and the problems that belong to none or to several of them
 */
export function describe<S extends Readonly<Record<string, Setting>>>(
  spec: Settings<S>,
  from: Sources,
): { readonly settings: readonly Found[]; readonly others: readonly Problem[] } {
  const { read, others } = readAll(spec as unknown as Settings, from)
  return { settings: read.map(({ name, setting, source, problem }) => ({ name, setting, source, problem })), others }
}
