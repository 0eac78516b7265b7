import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { inspect } from 'node:util'
import { z } from 'zod'
import {
  ConfigProblem,
  databaseUrl,
  defineSettings,
  describe,
  flag,
  insecureFlag,
  integer,
  keyService,
  listOf,
  modeOf,
  oneOf,
  origin,
  plain,
  proxies,
  readConfig,
  secret,
  secretText,
  type Environment,
  type Mode,
} from '../src/config.ts'

const common = { about: 'for the test', owner: 'nobody' }
const spec = defineSettings({
  prefix: 'SHOP_',
  settings: {
    SIGNING_SECRET: secret(secretText(), { ...common, required: 'always', rotateDays: 30 }),
    DATABASE_URL: secret(databaseUrl(), { ...common, required: 'always', rotateDays: 90 }),
    PUBLIC_ORIGIN: plain(origin(), { ...common, required: 'production', fallback: 'http://localhost:1' }),
    ALLOWED_ORIGINS: plain(listOf(origin()), { ...common, required: 'never', fallback: '' }),
    KMS: plain(keyService(), { ...common, required: 'production', fallback: 'local:.keys' }),
    TRUSTED_PROXIES: plain(proxies(), { ...common, required: 'never', fallback: '' }),
    PORT: plain(integer(1, 65_535), { ...common, required: 'never', fallback: '80' }),
    LOG_LEVEL: plain(oneOf('info', 'debug'), { ...common, required: 'never', fallback: 'info' }),
    STATEMENTS: plain(flag(), { ...common, required: 'never' }),
    DEMO_DATA: plain(insecureFlag('it is public'), { ...common, required: 'never', fallback: 'false' }),
  },
  rules: [
    (values) =>
      values.PORT === 80 && values.LOG_LEVEL === 'debug' ? [{ name: 'LOG_LEVEL', problem: 'must not be debug on port 80' }] : [],
  ],
})

const password = 'bQ3vN8xZr1Lk7TwY'
const good: Environment = {
  SIGNING_SECRET: randomBytes(32).toString('base64'),
  DATABASE_URL: `postgresql://app:${password}@db.internal/shop?sslmode=verify-full`,
  PUBLIC_ORIGIN: 'https://shop.test',
  KMS: 'aws:arn:aws:kms:eu-central-1:111122223333:key/abc',
}
const noFiles = (): string => {
  throw new Error('ENOENT')
}

function problems(env: Environment, mode: Mode = 'production', readFile = noFiles): readonly { name: string; problem: string }[] {
  try {
    readConfig(spec, { env, mode, readFile })
    return []
  } catch (error) {
    assert.ok(error instanceof ConfigProblem)
    assert.ok(error instanceof TypeError)
    for (const value of Object.values(env)) {
      if (value !== undefined && value.length > 8) assert.ok(!error.message.includes(value), 'a value stands in the message')
    }
    return error.problems
  }
}

const url = (rest: string): string => `postgresql://app:${password}@${rest}`
const refusedInProduction: readonly (readonly [string, string, string | undefined, RegExp])[] = [
  ['a missing secret', 'SIGNING_SECRET', undefined, /is not set/],
  ['an empty secret', 'SIGNING_SECRET', '', /is empty/],
  ['a short secret', 'SIGNING_SECRET', 'b8Kq0ZpW3n', /shorter than 32/],
  ['a repeated character', 'SIGNING_SECRET', 'a'.repeat(40), /placeholder|entropy/],
  ['a repeated word', 'SIGNING_SECRET', 'Zk3Z9pQ1'.repeat(5), /entropy/],
  ['a counting secret', 'SIGNING_SECRET', 'bcdefghijklmnopqrstuvwyz0123456789ab', /entropy|placeholder/],
  ['few different characters', 'SIGNING_SECRET', 'aZkaZZkakkZaZkkaZakZZakakZkaaZkZakka', /entropy/],
  ['changeme', 'SIGNING_SECRET', 'changeme-changeme-please-now-thanks-ok', /placeholder/],
  ['the word secret', 'SIGNING_SECRET', 'super-SECRET-jwt-signing-material-2024', /placeholder/],
  ['your-…', 'SIGNING_SECRET', 'your-256-bit-value-goes-right-in-here', /placeholder/],
  ['an example', 'SIGNING_SECRET', 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY', /placeholder/],
  ['xxxx', 'SIGNING_SECRET', 'kP2xXxxxxxQ8vB1nM4zL6tR9wY3sD5fG7hJ0', /placeholder/],
  ['a provider test key', 'SIGNING_SECRET', 'sk_test_4eC39HqLyjWDarjtT1zdp7dcW8Kb2Q', /placeholder/],
  ['a template left unfilled', 'SIGNING_SECRET', '${SIGNING_MATERIAL_FROM_THE_VAULT_9aZ}', /placeholder/],
  ['a missing database', 'DATABASE_URL', undefined, /is not set/],
  ['a database without TLS', 'DATABASE_URL', url('db.internal/shop'), /verify-full/],
  ['a database with unverified TLS', 'DATABASE_URL', url('db.internal/shop?sslmode=require'), /verify-full/],
  ['verify-full overruled by a second sslmode', 'DATABASE_URL', url('db.internal/shop?sslmode=verify-full&sslmode=disable'), /at most once/],
  ['loopback overruled by ?host=', 'DATABASE_URL', url('127.0.0.1/shop?host=db.evil.test'), /verify-full/],
  ['a name that begins like loopback', 'DATABASE_URL', url('127.0.0.1.evil.test/shop'), /verify-full/],
  ['ssl=0 beside verify-full', 'DATABASE_URL', url('db.internal/shop?ssl=0&sslmode=verify-full'), /ssl=/],
  ['a placeholder database password', 'DATABASE_URL', 'postgresql://app:postgres-password-1@localhost/shop', /placeholder/],
  ['a short database password', 'DATABASE_URL', 'postgresql://app:Zk3@localhost/shop', /shorter/],
  ['another database', 'DATABASE_URL', 'mysql://app@localhost/shop', /postgresql/],
  ['a plain http origin', 'PUBLIC_ORIGIN', 'http://shop.test', /https/],
  ['a default origin', 'PUBLIC_ORIGIN', undefined, /is not set/],
  ['an origin with a path', 'PUBLIC_ORIGIN', 'https://shop.test/', /origin/],
  ['a wildcard origin', 'ALLOWED_ORIGINS', 'https://a.test,*', /origin/],
  ['the null origin', 'ALLOWED_ORIGINS', 'null', /origin/],
  ['one http origin among others', 'ALLOWED_ORIGINS', 'https://a.test,http://b.test', /https/],
  ['the local key provider', 'KMS', 'local:/keys/root', /local key provider/],
  ['a key service over http', 'KMS', 'vault:http://vault:8200/transit/key', /https/],
  ['an unnamed key service', 'KMS', 'memory:', /must be local/],
  ['a key file without a name', 'KMS', 'local: ', /must be local/],
  ['trust in every proxy', 'TRUSTED_PROXIES', 'true', /never true/],
  ['trust in a bare number of hops', 'TRUSTED_PROXIES', '1', /never true/],
  ['hops beside addresses', 'TRUSTED_PROXIES', 'hops:1, 10.0.0.1', /alone/],
  ['hops without end', 'TRUSTED_PROXIES', 'hops:9', /hops:5/],
  ['trust in the whole internet', 'TRUSTED_PROXIES', '10.0.0.1,0.0.0.0/0', /whole internet/],
  ['a port out of range', 'PORT', '65536', /whole number/],
  ['a port in hexadecimal', 'PORT', '0x50', /whole number/],
  ['an unknown level', 'LOG_LEVEL', 'verbose', /one of/],
  ['yes for true', 'STATEMENTS', 'yes', /true or false/],
  ['demo data', 'DEMO_DATA', 'true', /it is public/],
]

for (const [what, name, value, rule] of refusedInProduction) {
  test(`production refuses ${what} (${name}) and names nothing else`, () => {
    const found = problems({ ...good, [name]: value })
    assert.deepEqual(found.map((one) => one.name), [name])
    assert.match(found[0]?.problem ?? '', rule)
  })
}

const accepted: readonly (readonly [string, Environment])[] = [
  ['the good configuration', {}],
  ['a unix socket without TLS', { DATABASE_URL: `postgresql://app:${password}@/shop?host=/var/run/postgresql` }],
  ['a unix socket as authority', { DATABASE_URL: 'postgresql://%2Fvar%2Frun%2Fpostgresql/shop' }],
  ['loopback without TLS', { DATABASE_URL: url('[::1]:5432/shop') }],
  ['private networks as proxies', { TRUSTED_PROXIES: '10.0.0.0/8, fc00::/7, 192.0.2.7' }],
  ['proxies without fixed addresses', { TRUSTED_PROXIES: 'hops:2' }],
  ['what Kubernetes adds for a Service of the same name', { SHOP_SERVICE_HOST: '10.0.0.1', SHOP_PORT_80_TCP_ADDR: '10.0.0.1' }],
]
for (const [what, env] of accepted) {
  test(`production accepts ${what}`, () => assert.deepEqual(problems({ ...good, ...env }), []))
}

test('random secrets are never mistaken for placeholders or weak ones', () => {
  for (let i = 0; i < 400; i++) {
    for (const encoding of ['base64', 'base64url', 'hex'] as const) {
      const env = { ...good, SIGNING_SECRET: randomBytes(32).toString(encoding) }
      assert.deepEqual(problems(env), [])
    }
  }
})

test('all problems are reported at once', () => {
  const found = problems({ KMS: 'local:x', PORT: '-1', DEMO_DATA: 'true', PUBLIC_ORIGIN: 'http://a.test' })
  assert.deepEqual(found.map((one) => one.name).sort(), ['DATABASE_URL', 'DEMO_DATA', 'KMS', 'PORT', 'PUBLIC_ORIGIN', 'SIGNING_SECRET'])
})

test('rules over several settings are applied', () => {
  assert.deepEqual(problems({ ...good, LOG_LEVEL: 'debug' }), [{ name: 'LOG_LEVEL', problem: 'must not be debug on port 80' }])
})

for (const [name, meant] of [['DATABSE_URL', 'DATABASE_URL'], ['SIGNING_SECERT', 'SIGNING_SECRET'], ['TRUSTED_PROXY', null], ['SHOP_FAST', null], ['LOGLEVEL', 'LOG_LEVEL']] as const) {
  test(`a misspelt variable ${name} is ${meant === null && !name.startsWith('SHOP_') ? 'left alone where nothing is near' : 'refused in production'}`, () => {
    const found = problems({ ...good, [name]: 'whatever' })
    const near = meant !== null || name.startsWith('SHOP_')
    assert.deepEqual(found.map((one) => one.name), near ? [name] : [])
    if (meant !== null) assert.match(found[0]?.problem ?? '', new RegExp(`is ${meant} meant`))
  })
}

for (const [name, value] of [['NODE_TLS_REJECT_UNAUTHORIZED', '0'], ['NODE_DEBUG', 'http'], ['AWS_SECRET_ACCESS_KEY', 'abcdefghij'], ['PGOPTIONS', '-c row_security=off']] as const) {
  test(`production refuses ${name}`, () => {
    assert.deepEqual(problems({ ...good, [name]: value }).map((one) => one.name), [name])
  })
}

test('a secret from a mounted file is read without its final line break', () => {
  const files: Readonly<Record<string, string>> = { '/run/secrets/signing': `${good['SIGNING_SECRET'] ?? ''}\n` }
  const env = { ...good, SIGNING_SECRET: undefined, SIGNING_SECRET_FILE: '/run/secrets/signing' }
  const config = readConfig(spec, { env, mode: 'production', readFile: (path) => files[path] ?? noFiles() })
  assert.equal(config.SIGNING_SECRET, good['SIGNING_SECRET'])
})

test('NAME and NAME_FILE together are refused, and an unreadable or empty file is named', () => {
  const both = problems({ ...good, SIGNING_SECRET_FILE: '/run/secrets/x' })
  assert.deepEqual(both, [{ name: 'SIGNING_SECRET', problem: 'and SIGNING_SECRET_FILE are both set' }])
  const fileOnly = { ...good, SIGNING_SECRET: undefined, SIGNING_SECRET_FILE: '/run/secrets/x' }
  assert.match(problems(fileOnly)[0]?.problem ?? '', /cannot be read/)
  assert.match(problems(fileOnly, 'production', () => '\n')[0]?.problem ?? '', /is empty/)
})

test('development takes defaults, but never one for a secret', () => {
  assert.deepEqual(problems({}, 'development').map((one) => one.name), ['SIGNING_SECRET', 'DATABASE_URL'])
  const env = { SIGNING_SECRET: 'dev', DATABASE_URL: 'postgresql://app:app@127.0.0.1/shop' }
  const config = readConfig(spec, { env, mode: 'development', readFile: noFiles })
  assert.equal(config.PORT, 80)
  assert.equal(config.STATEMENTS, undefined)
  assert.deepEqual(config.ALLOWED_ORIGINS, [])
})

test('the configuration is frozen and shows no secret when printed, spread or serialised', () => {
  const config = readConfig(spec, { env: good, mode: 'production', readFile: noFiles })
  assert.throws(() => Object.assign(config, { PORT: 1 }), TypeError)
  const shown = inspect(config) + JSON.stringify(config) + JSON.stringify({ ...config })
  assert.ok(!shown.includes(password) && !shown.includes(good['SIGNING_SECRET'] ?? '?'))
  assert.ok(config.DATABASE_URL.includes(password))
})

test('a schema that echoes its input in a message or throws does not leak it', () => {
  const echo = { schema: z.string().superRefine((text, context) => context.addIssue({ code: 'custom', message: `bad ${text.slice(0, 6)}` })) }
  const crash = { schema: z.string().transform((text): string => { throw new Error(text) }) }
  const leaky = defineSettings({
    prefix: 'A_',
    settings: { ONE: secret(echo, { ...common, required: 'always', rotateDays: 1 }), TWO: secret(crash, { ...common, required: 'always', rotateDays: 1 }) },
    rules: [],
  })
  const from = { env: { ONE: 'hunter2-hunter2', TWO: 'hunter2-hunter2' }, mode: 'development', readFile: noFiles } as const
  assert.throws(() => readConfig(leaky, from), (error: unknown) => error instanceof ConfigProblem && !error.message.includes('hunter') && error.problems.length === 2)
})

test('describe tells source, class and problem of each setting, never a value', () => {
  const env = { ...good, PORT: 'many', SHOP_X: '1' }
  const report = describe(spec, { env, mode: 'production', readFile: noFiles })
  const by = new Map(report.settings.map((one) => [one.name, one]))
  assert.equal(by.get('SIGNING_SECRET')?.source, 'environment')
  assert.equal(by.get('SIGNING_SECRET')?.setting.rotateDays, 30)
  assert.equal(by.get('LOG_LEVEL')?.source, 'default')
  assert.equal(by.get('STATEMENTS')?.source, 'absent')
  assert.match(by.get('PORT')?.problem ?? '', /whole number/)
  assert.deepEqual(report.others.map((one) => one.name), ['SHOP_X'])
  assert.ok(!inspect(report, { depth: 9 }).includes(password))
})

test('no NODE_ENV means production, another word is refused', () => {
  assert.equal(modeOf({}), 'production')
  assert.equal(modeOf({ NODE_ENV: 'test' }), 'test')
  assert.throws(() => modeOf({ NODE_ENV: 'prod' }), ConfigProblem)
})

test('a spec with a default for a secret, a fallback of the wrong form or a lower-case name is a TypeError', () => {
  const withFallback = { ...common, required: 'always', rotateDays: 1, fallback: 'x' } as const
  assert.throws(() => secret(secretText(), withFallback), /fallback/)
  const bad = { PORT: plain(integer(1, 9), { ...common, required: 'never', fallback: 'ten' }) }
  assert.throws(() => defineSettings({ prefix: 'A_', settings: bad, rules: [] }), /fallback of PORT/)
  assert.throws(() => defineSettings({ prefix: 'A_', settings: { port: bad.PORT }, rules: [] }), /upper case/)
})
