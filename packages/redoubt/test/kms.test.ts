import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { chmod, copyFile, mkdir, readdir, readFile, rename, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { after, test } from 'node:test'
import { Refusal } from '../src/errors.ts'
import { backupLocal } from '../src/kms/local.ts'
import { openKeyService, type KeyService } from '../src/kms.ts'
import { keyServiceContract, refusedWith } from './contracts/key-service.ts'
import { secretFolder } from './support/keys.ts'

const folder = await secretFolder()
after(() => folder.remove())
const none = (): Promise<boolean> => Promise.resolve(false)
let made = 0

/** A root key of its own, in a folder of its own. */
async function fresh(): Promise<{ readonly path: string; readonly service: KeyService }> {
  const path = `${folder.path}/${made++}/root.key`
  return { path, service: await openKeyService(`local:${path}`, { production: false, create: true, dataExists: none }) }
}

function reopen(path: string): Promise<KeyService> {
  return openKeyService(`local:${path}`, { production: false })
}

async function detailOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof Refusal && error.code === 'key_refused', String(error))
  return error.detail ?? ''
}

keyServiceContract('local', async () => (await fresh()).service, async () => (await fresh()).service)

test('a root key is made 0600 in a 0700 folder and opens the same keys after a restart', async () => {
  const { path, service } = await fresh()
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  assert.equal((await stat(dirname(path))).mode & 0o777, 0o700)
  assert.deepEqual(await readdir(dirname(path)), ['root.key'])
  const { key, wrapped } = await service.generate({ use: 'test' })
  assert.deepEqual(await (await reopen(path)).unwrap(wrapped, { use: 'test' }), key)
})

test('two first starts at once end with one root key', async () => {
  const path = `${folder.path}/race/root.key`
  const services = await Promise.all(Array.from({ length: 8 }, () => openKeyService(`local:${path}`, { production: false, create: true, dataExists: none })))
  const refs = await Promise.all(services.map(async (service) => (await service.generate({ use: 'test' })).wrapped.keyRef))
  assert.equal(new Set(refs).size, 1)
})

test('attack: the local key service in production is refused', async () => {
  await assert.rejects(openKeyService(`local:${folder.path}/p/root.key`, { production: true, create: true, dataExists: none }), TypeError)
  await assert.rejects(stat(`${folder.path}/p`))
})

test('a lost root key is refused while data exists, never replaced', async () => {
  const { path } = await fresh()
  await rename(path, `${path}.lost`)
  assert.match(await detailOf(reopen(path)), /put back a backup/)
  assert.match(await detailOf(openKeyService(`local:${path}`, { production: false, create: true, dataExists: () => Promise.resolve(true) })), /there is data sealed under it/)
  await assert.rejects(stat(path))
})

test('a root key is not made unless the first start may, and never without asking for data', async () => {
  const path = `${folder.path}/unasked/root.key`
  await assert.rejects(reopen(path), refusedWith('key_refused'))
  await assert.rejects(openKeyService(`local:${path}`, { production: false, create: true }), TypeError)
  await assert.rejects(stat(path))
})

test('attack: a root key file that others can read is refused', async () => {
  const { path } = await fresh()
  await chmod(path, 0o640)
  assert.match(await detailOf(reopen(path)), /chmod 600/)
  await chmod(path, 0o604)
  assert.match(await detailOf(reopen(path)), /chmod 600/)
})

test('attack: a root key in a folder where others can put another is refused', async () => {
  const { path } = await fresh()
  await chmod(dirname(path), 0o777)
  assert.match(await detailOf(reopen(path)), /chmod 700/)
})

test('attack: a symbolic link in the place of the root key is refused', async () => {
  const { path } = await fresh()
  await rename(path, `${path}.real`)
  await symlink(`${path}.real`, path)
  assert.match(await detailOf(reopen(path)), /symbolic link/)
})

test('a root key file that is cut, longer, empty, not one of ours or a folder is refused', async () => {
  const { path } = await fresh()
  const whole = await readFile(path)
  for (const length of [0, 16, whole.length - 1, whole.length + 1]) {
    await truncate(path, length)
    assert.match(await detailOf(reopen(path)), /wrong size/)
  }
  await writeFile(path, Buffer.alloc(whole.length, 7))
  assert.match(await detailOf(reopen(path)), /not a root key file/)
  await mkdir(`${path}.d`)
  assert.match(await detailOf(reopen(`${path}.d`)), /not a regular file/)
})

test('attack: a root key replaced or taken away under a running service fails its check', async () => {
  const [{ path, service }, other] = [await fresh(), await fresh()]
  await service.check()
  await copyFile(other.path, path)
  assert.match(await detailOf(service.check()), /replaced/)
  await rename(path, `${path}.gone`)
  assert.match(await detailOf(service.check()), /gone/)
})

test('a backup is 0600, opens what the root opened, and overwrites nothing', async () => {
  const { path, service } = await fresh()
  const { key, wrapped } = await service.generate({ use: 'test' })
  const copy = `${path}.backup`
  assert.equal(await backupLocal(path, copy), wrapped.keyRef)
  assert.equal((await stat(copy)).mode & 0o777, 0o600)
  assert.deepEqual(await (await reopen(copy)).unwrap(wrapped, { use: 'test' }), key)
  assert.match(await detailOf(backupLocal(path, copy)), /exists already/)
  assert.match(await detailOf(backupLocal(`${path}.none`, `${copy}.2`)), /no root key file/)
})

test('a setting that names no provider, or is written otherwise, says so', async () => {
  for (const setting of ['', 'local', 'local:', 'gcp:key', 'LOCAL:x']) {
    await assert.rejects(openKeyService(setting, { production: false }), /openKeyService: setting must/)
  }
})

test('a malformed setting of a remote key service says what is wrong with it', async () => {
  const vault = { address: 'https://vault.example', signIn: { method: 'kubernetes', role: 'redoubt' } } as const
  const wrong: readonly (readonly [string, RegExp])[] = [
    ['aws:alias/redoubt', /name the region/],
    ['aws:arn:aws:kms:eu-west-1:123456789012:key/11111111-2222-3333-4444-555555555555?region=us-east-1', /differ/],
    ['aws:redoubt?region=eu-west-1', /key id, key ARN/],
    ['aws:alias/redoubt?region=eu-west-1&key=2', /unknown parameter key/],
    ['azure:http://v.vault.azure.net/keys/k?sign=s', /azure:https/],
    ['azure:https://v.vault.azure.net/keys/k', /signing key/],
    ['azure:https://v.vault.azure.net/keys/k?sign=K', /another key/],
    ['azure:https://v.vault.azure.net/secrets/k?sign=s', /azure:https/],
    ['azure:https://v.vault.azure.net/keys/k?sign=s&other=1', /unknown parameter other/],
    ['vault:root', /vault:<mount>\/<key>/],
    ['vault:transit/../root', /vault:<mount>\/<key>/],
    ['vault:http://vault.example/transit/root', /https: in production/],
    ['vault:https://user:word@vault.example/transit/root', /nothing more/],
  ]
  for (const [setting, says] of wrong) await assert.rejects(openKeyService(setting, { production: true, vault }), (error) => error instanceof TypeError && says.test(error.message), setting)
  await assert.rejects(openKeyService('vault:transit/root', { production: true }), /options\.vault/)
})

test('attack: what is only fit for development is refused in production', async () => {
  const azure = 'azure:https://v.vault.azure.net/keys/k?sign=s'
  await assert.rejects(openKeyService(azure, { production: true, azure: { insecureAnyVaultHost: true } }), /refused in production/)
  await assert.rejects(openKeyService(azure, { production: true, azure: { identity: { kind: 'cli' } } }), /refused in production/)
  await assert.rejects(openKeyService('aws:alias/a?region=eu-west-1', { production: true, aws: { endpoint: 'http://127.0.0.1:1' } }), /https: in production/)
  const vault = { address: 'https://vault.example', signIn: { method: 'token', token: 'hvs.x' } } as const
  await assert.rejects(openKeyService('vault:transit/root', { production: true, vault }), /refused in production/)
})

test('the SDK of a provider is not loaded before the provider is chosen', () => {
  const script = `
    const { registerHooks } = await import('node:module')
    const seen = []
    registerHooks({ resolve: (name, context, next) => { seen.push(name); return next(name, context) } })
    const { openKeyService } = await import('redoubt/kms')
    const cloud = () => seen.filter((name) => /^@(aws-sdk|azure|smithy)/.test(name)).length
    const before = cloud()
    const service = await openKeyService('aws:alias/a?region=eu-west-1', { production: false })
    service.close()
    process.stdout.write(before + ' ' + (cloud() > 0))`
  assert.equal(execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: import.meta.dirname, encoding: 'utf8' }), '0 true')
})
