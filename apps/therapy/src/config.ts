import { controlNames } from 'redoubt/controls'
import {
  assignments,
  databaseUrl,
  defineSettings,
  flag,
  insecureFlag,
  integer,
  keyService,
  line,
  listOf,
  mailAddress,
  mailServer,
  oneOf,
  origin,
  plain,
  proxies,
  redisUrl,
  secret,
  type Config,
  type Problem,
  type Setting,
} from 'redoubt/config'
import { standardNumbers } from 'redoubt/limits/standard'

const platform = 'platform operations'
const security = 'security'

/** Every database role has a login of its own (guarantees: a door opened with another role's key is no door). */
function distinctLogins(values: Readonly<Record<string, unknown>>): readonly Problem[] {
  const names = ['DATABASE_URL', 'DATABASE_OWNER_URL', 'KEYS_DATABASE_URL', 'WORKER_DATABASE_URL']
  const seen = new Map<string, string>()
  const problems: Problem[] = []
  for (const name of names) {
    const value = values[name]
    if (typeof value !== 'string') continue
    const url = new URL(value)
    const login = url.searchParams.get('user') ?? url.username
    const other = seen.get(login)
    if (other !== undefined) problems.push({ name, problem: `must not use the same login as ${other}` })
    seen.set(login, name)
  }
  return problems
}

function numberOf(about: string, standard: number): Setting<number, never> {
  return plain(integer(1, 1_000_000), { about, owner: security, required: 'never', fallback: String(standard) })
}

/** The settings of Therapy: the one inventory of what it reads from its surroundings. */
export const settings = defineSettings({
  prefix: 'THERAPY_',
  settings: {
    NODE_ENV: plain(oneOf('production', 'development', 'test'), {
      about: 'Mode of the service; not set means production',
      owner: platform,
      required: 'never',
      fallback: 'production',
    }),
    HOST: plain(line(), { about: 'Address to listen on', owner: platform, required: 'never', fallback: '127.0.0.1' }),
    PORT: plain(integer(0, 65_535), { about: 'Port to listen on; 0 takes a free one', owner: platform, required: 'never', fallback: '4310' }),
    PUBLIC_ORIGIN: plain(origin(), {
      about: 'Origin under which browsers reach the service',
      owner: platform,
      required: 'production',
      fallback: 'http://localhost:4310',
    }),
    ADMIN_ORIGIN: plain(origin(), {
      about: 'Origin of the administration, a host or port of its own; not set: this process serves none',
      owner: security,
      required: 'never',
    }),
    ADMIN_HOST: plain(line(), { about: 'Address to listen on for the administration', owner: platform, required: 'never', fallback: '127.0.0.1' }),
    ADMIN_PORT: plain(integer(0, 65_535), { about: 'Port to listen on for the administration', owner: platform, required: 'never', fallback: '4311' }),
    SESSION_IDLE_MINUTES: plain(integer(15, 43_200), { about: 'Minutes without a refresh after which a session ends', owner: security, required: 'never', fallback: '1440' }),
    SESSION_ABSOLUTE_HOURS: plain(integer(1, 720), { about: 'Hours after the sign-in at which a session ends', owner: security, required: 'never', fallback: '720' }),
    ADMIN_SESSION_IDLE_MINUTES: plain(integer(15, 480), { about: 'The same for the administration', owner: security, required: 'never', fallback: '30' }),
    ADMIN_SESSION_ABSOLUTE_HOURS: plain(integer(1, 24), { about: 'The same for the administration', owner: security, required: 'never', fallback: '12' }),
    FACTOR_RESET_HOURS: plain(integer(1, 720), {
      about: 'Hours between an administrator’s request to remove lost second factors and its effect',
      owner: security,
      required: 'never',
      fallback: '24',
    }),
    ALLOWED_ORIGINS: plain(listOf(origin()), {
      about: 'Further origins whose pages may call the API, comma-separated',
      owner: security,
      required: 'never',
      fallback: '',
    }),
    CONTROLS: plain(assignments(controlNames, ['off', 'insecure-off', 'report', 'enforce'], ['off']), {
      about: 'Modes of controls that do not enforce, such as csrf=report while it is rolled out; insecure-off turns one off in production',
      owner: security,
      required: 'never',
      fallback: '',
    }),
    HSTS: plain(oneOf('trial', 'year', 'subdomains', 'preload'), {
      about: 'Strict-Transport-Security: trial (5 minutes) first, then year; subdomains when every one has TLS; preload when the domain is listed',
      owner: security,
      required: 'never',
      fallback: 'year',
    }),
    TRUSTED_PROXIES: plain(proxies(), {
      about: 'Addresses or networks of the proxies in front, comma-separated',
      owner: platform,
      required: 'never',
      fallback: '',
    }),
    DATABASE_URL: secret(databaseUrl(), { about: 'Login of the app role', owner: platform, required: 'always', rotateDays: 90 }),
    DATABASE_OWNER_URL: secret(databaseUrl(), {
      about: 'Login of the migrator role; only for `redoubt migrate`, not for the running service',
      owner: platform,
      required: 'never',
      rotateDays: 90,
    }),
    KEYS_DATABASE_URL: secret(databaseUrl(), { about: 'Login of the keys role', owner: security, required: 'always', rotateDays: 90 }),
    WORKER_DATABASE_URL: secret(databaseUrl(), {
      about: 'Login of the worker role (jobs, sealing of the audit trail)',
      owner: platform,
      required: 'production',
      rotateDays: 90,
    }),
    DATABASE_NAMED_STATEMENTS: plain(flag(), {
      about: 'false behind PgBouncer before 1.21 in transaction mode',
      owner: platform,
      required: 'never',
      fallback: 'true',
    }),
    DATABASE_POOL_SIZE: plain(integer(1, 500), { about: 'Connections of the app role', owner: platform, required: 'never', fallback: '10' }),
    REDIS_URL: secret(redisUrl(), {
      about: 'Redis or Valkey that counts for all instances; not set: each instance counts by itself',
      owner: platform,
      required: 'never',
      rotateDays: 90,
    }),
    REDIS_TIMEOUT: plain(integer(5, 5_000), { about: 'Milliseconds after which Redis counts as away', owner: platform, required: 'never', fallback: '50' }),
    LIMITS_ANONYMOUS: numberOf('Requests in 15 minutes of one address that is not signed in: reads, and apart from them writes', standardNumbers.anonymous),
    LIMITS_CALLER: numberOf('Units per minute of one caller; a route weighs one unless it says otherwise', standardNumbers.caller),
    LIMITS_ADDRESS: numberOf('Requests per minute of all signed-in callers of one address', standardNumbers.address),
    LIMITS_FLOOD: numberOf('Requests per minute of one address that one process looks at', standardNumbers.flood),
    LIMITS_SIGN_IN: numberOf('Failed tries in 15 minutes per account and device or address', standardNumbers.signIn),
    LIMITS_SIGN_IN_ADDRESS: numberOf('Failed tries in 15 minutes per address', standardNumbers.signInAddress),
    KMS: plain(keyService(), {
      about: 'Where the key-encryption keys live',
      owner: security,
      required: 'production',
      fallback: 'local:.redoubt/keys/root.key',
    }),
    ANCHOR_DIR: plain(line(), {
      about: 'Directory of the signed heads of the audit chain, on storage the database host cannot write',
      owner: security,
      required: 'production',
      fallback: '.redoubt/anchors',
    }),
    MAIL: secret(mailServer(), {
      about: 'Where mail goes: smtp://user:password@host:587, smtps://user:password@host:465, or file:<folder> for development',
      owner: platform,
      required: 'production',
      rotateDays: 365,
    }),
    MAIL_FROM: plain(mailAddress(), { about: 'Address that mail is from', owner: platform, required: 'production', fallback: 'no-reply@therapy.example.org' }),
    LOG_LEVEL: plain(oneOf('trace', 'debug', 'info', 'warn', 'error', 'fatal'), {
      about: 'Least level that is written',
      owner: platform,
      required: 'never',
      fallback: 'info',
    }),
    DEMO_DATA: plain(insecureFlag('demo people have published passwords'), {
      about: 'Fill the database with invented people',
      owner: platform,
      required: 'never',
      fallback: 'false',
    }),
  },
  rules: [
    (values, mode) => (values.NODE_ENV === mode ? [] : [{ name: 'NODE_ENV', problem: 'must agree with the mode the process runs in' }]),
    (values, mode) => (mode === 'production' ? distinctLogins(values) : []),
    (values, mode) =>
      mode === 'production' && values.TRUSTED_PROXIES?.length === 0
        ? [{ name: 'TRUSTED_PROXIES', problem: 'must name the proxy that ends TLS: the service itself speaks plain HTTP' }]
        : [],
    (values) =>
      (['', 'ADMIN_'] as const).flatMap((door) =>
        (values[`${door}SESSION_IDLE_MINUTES`] ?? 0) > (values[`${door}SESSION_ABSOLUTE_HOURS`] ?? 720) * 60
          ? [{ name: `${door}SESSION_IDLE_MINUTES`, problem: `must not be more than ${door}SESSION_ABSOLUTE_HOURS` }]
          : [],
      ),
    (values) =>
      values.ADMIN_ORIGIN !== undefined && (values.ADMIN_ORIGIN === values.PUBLIC_ORIGIN || values.ALLOWED_ORIGINS?.includes(values.ADMIN_ORIGIN) === true)
        ? [{ name: 'ADMIN_ORIGIN', problem: 'must be neither PUBLIC_ORIGIN nor among ALLOWED_ORIGINS: it is a door of its own' }]
        : [],
    (values) =>
      values.ALLOWED_ORIGINS?.includes(values.PUBLIC_ORIGIN ?? '') === true
        ? [{ name: 'ALLOWED_ORIGINS', problem: 'must not repeat PUBLIC_ORIGIN' }]
        : [],
  ],
})

export type Settings = Config<typeof settings>
