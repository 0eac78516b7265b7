import assert from 'node:assert/strict'
import { CreateKeyCommand, KMSClient } from '@aws-sdk/client-kms'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { openKeyring, type Keyring } from '../src/keyring.ts'
import { moveKeks, type Moved } from '../src/keyring/move.ts'
import { unrecorded } from './support/unrecorded.ts'
import { openKeyService, type KeyService } from '../src/kms.ts'
import { withPrevious } from '../src/kms/previous.ts'
import { openPool } from '../src/pg.ts'
import { open, seal } from '../src/seal.ts'
import { refusalOf, refusedWith } from './contracts/key-service.ts'
import { startAzure } from './support/azure.ts'
import { selfSigned } from './support/certificate.ts'
import { testDatabase } from './support/database.ts'
import { motoMissing, startMoto } from './support/emulators.ts'
import { counted, secretFolder, type CountedService } from './support/keys.ts'
import { startVault } from './support/vault.ts'

type Name = 'local' | 'aws' | 'azure' | 'vault'

const database = await testDatabase({ origins: ['redoubt'] })
const pool = openPool({ url: database.url('keys'), max: 4, emit: () => undefined })
const folder = await secretFolder()
const certificate = selfSigned()
const [azure, vault, moto] = [await startAzure(certificate), await startVault(), motoMissing === undefined ? await startMoto() : undefined]
after(async () => {
  await pool.close()
  await azure.close()
  await vault.close()
  await moto?.stop()
  await folder.remove()
})
azure.create('root', 'RSA')
azure.create('sign', 'EC')
Object.assign(process.env, azure.identity)
vault.transit('POST', 'keys/root', { derived: true })
vault.transit('POST', 'keys/second', { derived: true })

const region = 'eu-central-1'
const credentials = { accessKeyId: 'test', secretAccessKey: 'test', sessionToken: 'test' }
async function awsKey(endpoint: string): Promise<string> {
  const admin = new KMSClient({ region, credentials, endpoint })
  const { KeyMetadata } = await admin.send(new CreateKeyCommand({}))
  admin.destroy()
  return KeyMetadata?.Arn ?? ''
}

const settings: Readonly<Record<Name, string>> = {
  local: `local:${folder.path}/root.key`,
  aws: moto === undefined ? '' : `aws:${await awsKey(moto.origin)}`,
  azure: `azure:${azure.origin}/keys/root?sign=sign`,
  vault: 'vault:transit/root',
}

async function serviceOf(setting: string, previous?: string): Promise<CountedService> {
  const service = await openKeyService(setting, {
    production: false, create: true, dataExists: () => Promise.resolve(false), patience: { attempt: 20_000, whole: 60_000 },
    ...(previous === undefined ? {} : { previous }),
    aws: { endpoint: moto?.origin ?? '', credentials },
    azure: { ca: certificate.cert, insecureAnyVaultHost: true },
    vault: { address: vault.origin, signIn: { method: 'token', token: vault.token({}) } },
  })
  return counted(service)
}

const keyringOf = (service: KeyService): Keyring => openKeyring({ pool, service, realm: database.service, emit: () => undefined, usage: unrecorded })
const move = (from: KeyService, to: KeyService): Promise<Moved> => moveKeks({ pool, from, to, realm: database.service, emit: () => undefined, usage: unrecorded })
const rows = () => pool.query<{ readonly purpose: string; readonly provider: string; readonly key_ref: string; readonly wrapped: Buffer }>({ text: 'select purpose, provider, key_ref, wrapped from keys.key_encryption_keys order by purpose', values: [] })

const subject = randomUUID()
const scope = { tenant: 'realm', subject, keep: 'care' }
const place = { tenant: 'realm', table: 3, column: 1, row: randomUUID(), subject }

// One text sealed once, and one key of each kind, under the local root.
const local = await serviceOf(settings.local)
const first = keyringOf(local)
const sealed = seal(await first.keyFor(scope), place, 'the same bytes all along')
const index = await first.indexKeys(3, 1)
const signing = await first.purposeKey('token-sign')
first.close()

async function opensUnder(service: KeyService): Promise<void> {
  const keyring = keyringOf(service)
  assert.equal(open(await keyring.keyFor(scope), place, sealed).toString(), 'the same bytes all along')
  assert.ok((await keyring.indexKeys(3, 1))[0]?.key.equals(index[0]?.key ?? assert.fail()))
  assert.equal((await keyring.purposeKey('token-sign')).kid, signing.kid)
  await keyring.check()
  keyring.close()
}

// A walk that goes from each service to each other one.
const walk: readonly Name[] = moto === undefined
  ? ['local', 'azure', 'vault', 'azure', 'local', 'vault', 'local']
  : ['local', 'aws', 'local', 'azure', 'local', 'vault', 'aws', 'azure', 'aws', 'vault', 'azure', 'vault', 'local']

for (let step = 1; step < walk.length; step++) {
  const [leave, enter] = [walk[step - 1] ?? 'local', walk[step] ?? 'local']
  test(`sealed bytes open after moving from ${leave} to ${enter}, and the old service opens nothing any more`, async () => {
    const [from, to] = [await serviceOf(settings[leave]), await serviceOf(settings[enter])]
    await opensUnder(from)
    assert.deepEqual(await move(from, to), { moved: 3, already: 0, destroyed: 0 })
    assert.deepEqual((await rows()).map(({ provider }) => provider), [enter, enter, enter])
    await opensUnder(to)
    await assert.rejects(opensUnder(from), refusedWith('key_refused'))
    assert.deepEqual(await move(from, to), { moved: 0, already: 3, destroyed: 0 })
    from.close()
    to.close()
  })
}
test('the walk goes every way there is', () => {
  const present: readonly Name[] = moto === undefined ? ['local', 'azure', 'vault'] : ['local', 'aws', 'azure', 'vault']
  const ways = present.flatMap((one) => present.filter((other) => other !== one).map((other) => `${one} ${other}`))
  assert.deepEqual(walk.slice(1).map((enter, step) => `${walk[step] ?? ''} ${enter}`).sort(), ways.sort())
})

test('sealed bytes open after moving from and to aws', { skip: motoMissing ?? false }, () => undefined)

test('while keys move, a process with both services reads all of them and wraps new ones under the new', async () => {
  const both = await serviceOf(settings.vault, settings.local)
  const keyring = keyringOf(both)
  assert.equal(open(await keyring.keyFor(scope), place, sealed).toString(), 'the same bytes all along')
  const [row] = await rows()
  const to = await serviceOf(settings.vault)
  // Half moved: the second wrapping fails.
  let wraps = 0
  const failing: KeyService = { ...to, wrap: (key, context) => (++wraps === 2 ? Promise.reject(new Error('gone')) : to.wrap(key, context)) }
  await assert.rejects(move(local, failing), /gone/)
  assert.deepEqual((await rows()).map(({ provider }) => provider).sort(), ['local', 'local', 'vault'])
  await opensUnder(both)
  assert.deepEqual(await move(local, to), { moved: 2, already: 1, destroyed: 0 })
  await opensUnder(to)
  assert.notDeepEqual((await rows())[0]?.wrapped, row?.wrapped)
  keyring.close()
})

test('from one key of a service to another of its keys; both at once open either', async () => {
  const [old, next] = [await serviceOf(settings.vault), await serviceOf('vault:transit/second')]
  const both = withPrevious(next, old)
  await opensUnder(both)
  assert.deepEqual(await move(old, next), { moved: 3, already: 0, destroyed: 0 })
  assert.deepEqual(new Set((await rows()).map(({ key_ref }) => key_ref)), new Set(['transit/second:v1']))
  await opensUnder(both)
  await opensUnder(next)
  const altered = { ...(await next.generate({ a: 'b' })).wrapped, keyRef: 'transit/second:v9' }
  assert.match(await refusalOf(both.unwrap(altered, { a: 'b' })), /^key_refused: a wrapped key does not open here/)
  assert.deepEqual(await move(next, old), { moved: 3, already: 0, destroyed: 0 })
})

test('a rotation in the service rewraps every key without showing it, and the older version can be retired', async () => {
  const service = await serviceOf(settings.vault)
  vault.transit('POST', 'keys/root/rotate')
  vault.requests.length = 0
  assert.deepEqual(await move(service, service), { moved: 3, already: 0, destroyed: 0 })
  assert.equal(vault.requests.filter(({ path }) => path === 'transit/rewrap/root').length, 3)
  assert.equal(vault.requests.filter(({ path }) => path === 'transit/encrypt/root').length, 0)
  vault.transit('POST', 'keys/root/config', { min_decryption_version: 2 })
  await opensUnder(service)
})

test('attack: a new service that would not open what it wraps replaces nothing', async () => {
  const before = await rows()
  const from = await serviceOf(settings.vault)
  const [broken, another]: readonly KeyService[] = [
    { ...local, wrap: async (key, context) => ({ ...(await local.wrap(key, context)), blob: Buffer.alloc(61, 1) }) },
    { ...local, wrap: (_key, context) => local.wrap(Buffer.alloc(32, 9), context) },
  ]
  for (const to of [broken, another]) {
    await assert.rejects(move(from, to ?? assert.fail()), refusedWith('key_refused'))
    assert.deepEqual(await rows(), before)
  }
})

test('two moves at once and a key destroyed meanwhile: each key ends in one place, none is lost', async () => {
  const [from, to] = [await serviceOf(settings.vault), local]
  // Both have read the rows before either writes.
  const gate = Promise.withResolvers<void>()
  let arrived = 0
  const slow: KeyService = { ...to, wrap: async (key, context) => {
    if (++arrived === 2) gate.resolve()
    await gate.promise
    return to.wrap(key, context)
  } }
  const [one, other] = await Promise.all([move(from, slow), move(from, slow)])
  assert.equal(one.moved + other.moved, 3)
  assert.equal(one.already + other.already, 3)
  await opensUnder(to)
  await pool.query({ text: `insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped, state) values ($1, 'data', 2, 'vault', 'gone', null, 'destroyed')`, values: [Buffer.alloc(16, 1)] })
  assert.deepEqual(await move(to, from), { moved: 3, already: 0, destroyed: 1 })
})
