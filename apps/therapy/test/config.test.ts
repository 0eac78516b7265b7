import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConfigProblem, readConfig, type Environment } from 'redoubt/config'
import { settings } from '../src/config.ts'

const login = (user: string, password: string): string =>
  `postgresql://${user}:${password}@db.internal/therapy?sslmode=verify-full`
const good: Environment = {
  NODE_ENV: 'production',
  PUBLIC_ORIGIN: 'https://therapy.test',
  TRUSTED_PROXIES: '10.0.0.4',
  DATABASE_URL: login('therapy_app', 'bQ3vN8xZr1Lk7TwY'),
  KEYS_DATABASE_URL: login('therapy_keys', 'cW4uM9yAs2Mj8UxZ'),
  WORKER_DATABASE_URL: login('therapy_worker', 'dE5tL0zBt3Nh9VyA'),
  KMS: 'aws:alias/therapy',
  ANCHOR_DIR: '/anchors',
  MAIL: 'smtps://therapy:gH7uJ2wQe5Rk8SdF@mail.internal',
  MAIL_FROM: 'no-reply@therapy.test',
}
const readFile = (): string => {
  throw new Error('no file')
}

function refused(env: Environment): readonly string[] {
  try {
    readConfig(settings, { env, mode: 'production', readFile })
    return []
  } catch (error) {
    assert.ok(error instanceof ConfigProblem)
    return error.problems.map(({ name }) => name)
  }
}

test('Therapy starts in production with exactly these settings', () => {
  const config = readConfig(settings, { env: good, mode: 'production', readFile })
  assert.equal(config.PORT, 4310)
  assert.equal(config.DATABASE_NAMED_STATEMENTS, true)
  assert.deepEqual(config.TRUSTED_PROXIES, ['10.0.0.4'])
})

for (const name of Object.keys(good).filter((one) => one !== 'NODE_ENV')) {
  test(`Therapy does not start in production without ${name}`, () => {
    assert.deepEqual(refused({ ...good, [name]: undefined }), [name])
  })
}

test('one login for two database roles is refused', () => {
  assert.deepEqual(refused({ ...good, KEYS_DATABASE_URL: login('therapy_app', 'cW4uM9yAs2Mj8UxZ') }), ['KEYS_DATABASE_URL'])
  const hidden = `${login('therapy_keys', 'cW4uM9yAs2Mj8UxZ')}&user=therapy_app`
  assert.deepEqual(refused({ ...good, KEYS_DATABASE_URL: hidden }), ['KEYS_DATABASE_URL'])
})

test('demo data, the local key provider and a mode that disagrees are refused in production', () => {
  assert.deepEqual(refused({ ...good, DEMO_DATA: 'true', KMS: 'local:root.key', NODE_ENV: 'development' }), ['KMS', 'DEMO_DATA', 'NODE_ENV'])
})

test('mail without TLS, or into a folder, is refused in production', () => {
  for (const MAIL of ['file:/tmp/mail', 'http://mail.internal', 'smtp:mail', 'mail.internal:25', 'smtps://']) assert.deepEqual(refused({ ...good, MAIL }), ['MAIL'], MAIL)
  assert.deepEqual(refused({ ...good, MAIL_FROM: 'Therapy <no-reply@therapy.test>' }), ['MAIL_FROM'])
})

test('the administration is a door of its own, and no session is idle for longer than it may live', () => {
  assert.deepEqual(refused({ ...good, ADMIN_ORIGIN: 'https://admin.therapy.test' }), [])
  assert.deepEqual(refused({ ...good, ADMIN_ORIGIN: 'https://therapy.test' }), ['ADMIN_ORIGIN'])
  assert.deepEqual(refused({ ...good, ADMIN_ORIGIN: 'https://other.test', ALLOWED_ORIGINS: 'https://other.test' }), ['ADMIN_ORIGIN'])
  assert.deepEqual(refused({ ...good, SESSION_IDLE_MINUTES: '121', SESSION_ABSOLUTE_HOURS: '2', ADMIN_SESSION_IDLE_MINUTES: '61', ADMIN_SESSION_ABSOLUTE_HOURS: '1' }), ['SESSION_IDLE_MINUTES', 'ADMIN_SESSION_IDLE_MINUTES'])
  assert.deepEqual(refused({ ...good, SESSION_IDLE_MINUTES: '5' }), ['SESSION_IDLE_MINUTES'])
})

test('every setting has an owner, a class and a description, and every secret a rotation period', () => {
  for (const [name, setting] of Object.entries(settings.settings)) {
    assert.ok(setting.owner.length > 2 && setting.about.length > 5, name)
    if (setting.class === 'secret') assert.ok(setting.rotateDays !== null && setting.rotateDays <= 365 && setting.fallback === null, name)
    else assert.doesNotMatch(name, /SECRET|PASSWORD|TOKEN|KEY$|DATABASE.*URL/, `${name} looks like a secret`)
  }
})

test('a Redis outside the machine needs TLS and a password worth the name; the numbers of limits are whole', () => {
  const fine = ['rediss://therapy:bQ3vN8xZr1Lk7TwY@redis.internal:6380/0', 'rediss://:bQ3vN8xZr1Lk7TwY@redis.internal', 'redis://127.0.0.1:6379/1', 'redis://localhost']
  for (const url of fine) assert.deepEqual(refused({ ...good, REDIS_URL: url }), [], url)
  const bad = ['redis://therapy:bQ3vN8xZr1Lk7TwY@redis.internal', 'rediss://redis.internal', 'rediss://:short@redis.internal', 'http://redis.internal', 'rediss://', 'rediss://:bQ3vN8xZr1Lk7TwY@redis.internal/0?tls=false', 'redis.internal:6379']
  for (const url of bad) assert.deepEqual(refused({ ...good, REDIS_URL: url }), ['REDIS_URL'], url)
  for (const number of ['0', '-1', 'Infinity', '1e3', 'off']) assert.deepEqual(refused({ ...good, LIMITS_SIGN_IN: number }), ['LIMITS_SIGN_IN'], number)
})
