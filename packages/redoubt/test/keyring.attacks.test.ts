import assert from 'node:assert/strict'
import { randomBytes, randomUUID } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { after, test } from 'node:test'
import { keyId, secretKey, wrapKey } from '../src/aead.ts'
import { framed, uuidBytes } from '../src/bytes.ts'
import { openKeyService } from '../src/kms.ts'
import type { Keyring } from '../src/keyring.ts'
import { refusedWith } from './contracts/key-service.ts'
import { testDatabase } from './support/database.ts'
import { keysWorld, secretFolder } from './support/keys.ts'

/*
 * The attacker here is an administrator of the database alone: any row may be read, changed, added and put back; the
 * root key and the memory of the service are out of reach. Every cold keyring must refuse what was changed.
 */
const database = await testDatabase({ origins: ['redoubt'] })
const world = await keysWorld(database)
after(() => world.close())

const scopeOf = (subject: string = randomUUID(), tenant = 'realm', keep = 'care') => ({ tenant, subject, keep })

async function twoKeys(): Promise<readonly [ReturnType<typeof scopeOf>, ReturnType<typeof scopeOf>, Buffer, Buffer]> {
  const [a, b] = [scopeOf(), scopeOf()]
  const [one, two] = await world.keyring().keysFor([a, b])
  return [a, b, one?.id ?? assert.fail(), two?.id ?? assert.fail()]
}

async function refuses(work: (keyring: Keyring) => Promise<unknown>): Promise<void> {
  await assert.rejects(work(world.keyring()), refusedWith('key_refused'))
}

/** Runs an attack in the database and puts everything back. */
async function tampered(sql: string, values: readonly unknown[], work: () => Promise<void>): Promise<void> {
  const tables = ['key_encryption_keys', 'data_keys', 'index_keys', 'purpose_keys']
  await database.admin(tables.map((table) => `create table public.kept_${table} as table keys.${table};`).join(''))
  try {
    await database.admin(sql, values)
    await work()
  } finally {
    await database.admin(`set session_replication_role = replica;
      ${tables.map((table) => `delete from keys.${table}; insert into keys.${table} table public.kept_${table}; drop table public.kept_${table};`).join('')}
      set session_replication_role = origin;`)
  }
}

test('attack: the wrapped keys of two subjects swapped are both refused', async () => {
  const [a, b, one, two] = await twoKeys()
  const swap = `update keys.data_keys d set wrapped = o.wrapped from keys.data_keys o
    where (d.key_id = $1 and o.key_id = $2) or (d.key_id = $2 and o.key_id = $1)`
  await tampered(swap, [one, two], async () => {
    await refuses((keyring) => keyring.keyFor(a))
    await refuses((keyring) => keyring.keyFor(b))
    await refuses((keyring) => keyring.byId([one]))
  })
  await world.keyring().keysFor([a, b])
})

test('attack: key ids of two subjects swapped with their wrappings are refused', async () => {
  const [a, , one, two] = await twoKeys()
  await tampered(`update keys.data_keys set subject = gen_random_uuid() where key_id = $1`, [one], async () => {
    await database.admin('update keys.data_keys set subject = $1 where key_id = $2', [a.subject, two])
    await refuses((keyring) => keyring.keyFor(a))
    await refuses((keyring) => keyring.byId([two]))
  })
})

test('attack: a key row re-assigned to another subject, tenant, class or key id is refused', async () => {
  const [a, , one] = await twoKeys()
  const subject = randomUUID()
  for (const [change, scope] of [
    [`subject = '${subject}'`, scopeOf(subject)],
    [`tenant = 'another'`, scopeOf(a.subject, 'another')],
    [`keep = 'chat'`, scopeOf(a.subject, 'realm', 'chat')],
  ] as const) {
    await tampered(`update keys.data_keys set ${change} where key_id = $1`, [one], async () => {
      await refuses((keyring) => keyring.keyFor(scope))
      await refuses((keyring) => keyring.byId([one]))
    })
  }
  await tampered(`update keys.data_keys set key_id = decode('00112233445566778899aabbccddeeff', 'hex') where key_id = $1`, [one], () => refuses((keyring) => keyring.keyFor(a)))
})

test('attack: a data key planted under a key-encryption key of the attacker is refused', async () => {
  const [a, , one] = await twoKeys()
  const kek = secretKey(randomBytes(32))
  const kekId = keyId(kek)
  const bytes = randomBytes(32)
  const id = keyId(secretKey(Buffer.from(bytes)))
  const wrapped = wrapKey(kek, framed(['redoubt data key', kekId, id, a.tenant, uuidBytes(a.subject), a.keep]), bytes)
  const ours = `select provider, key_ref from keys.key_encryption_keys where purpose = 'data'`
  const [row] = await database.admin<{ provider: string; key_ref: string }>(ours)
  // With a wrapping of the attacker's own making, and with the genuine wrapping of the service's key.
  const [{ wrapped: genuine } = { wrapped: Buffer.alloc(0) }] = await database.admin<{ wrapped: Buffer }>(`select wrapped from keys.key_encryption_keys where purpose = 'data'`)
  for (const kekWrapped of [randomBytes(61), genuine]) {
    await tampered(
      `insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped, state) values ($1, 'data', 1000, $2, $3, $4, 'decrypt_only')`,
      [kekId, row?.provider, row?.key_ref, kekWrapped],
      async () => {
        // Past the trigger that wants the active one: an administrator of the database can do that.
        await database.admin('alter table keys.data_keys disable trigger under_active_key')
        await database.admin('update keys.data_keys set key_id = $1, kek_id = $2, wrapped = $3 where key_id = $4', [id, kekId, wrapped, one])
        await database.admin('alter table keys.data_keys enable trigger under_active_key')
        await refuses((keyring) => keyring.keyFor(a))
        await refuses((keyring) => keyring.byId([id]))
        await refuses((keyring) => keyring.check())
      },
    )
  }
})

test('attack: by a holder of the key-encryption keys too, a key under an id not its own, or under the key of another purpose, is refused', async () => {
  const [a, , one] = await twoKeys()
  await world.keyring().indexKeys(9, 8)
  const keks = await database.admin<{ id: Buffer; purpose: string; provider: string; key_ref: string; wrapped: Buffer }>('select * from keys.key_encryption_keys')
  const opened = async (purpose: string): Promise<{ id: Buffer; key: KeyObject }> => {
    const row = keks.find((other) => other.purpose === purpose) ?? assert.fail()
    const context = { realm: database.service, use: 'redoubt key-encryption key', purpose, version: '1' }
    return { id: row.id, key: secretKey(await world.service.unwrap({ provider: row.provider, keyRef: row.key_ref, blob: row.wrapped }, context)) }
  }
  const [data, index] = [await opened('data'), await opened('index')]
  const wrapped = (kek: typeof data, id: Buffer, bytes: Buffer): Buffer => wrapKey(kek.key, framed(['redoubt data key', kek.id, id, a.tenant, uuidBytes(a.subject), a.keep]), bytes)
  const plant = 'update keys.data_keys set key_id = $1, kek_id = $2, wrapped = $3 where key_id = $4'

  const bytes = randomBytes(32)
  const id = keyId(secretKey(Buffer.from(bytes)))
  // What is refused below differs from this by one thing each.
  await tampered(plant, [id, data.id, wrapped(data, id, bytes), one], async () => {
    assert.deepEqual((await world.keyring().keyFor(a)).id, id)
  })
  await tampered(plant, [one, data.id, wrapped(data, one, bytes), one], () => refuses((keyring) => keyring.keyFor(a)))
  await tampered(plant, [id, index.id, wrapped(index, id, bytes), one], () => refuses((keyring) => keyring.keyFor(a)))
})

test('attack: a key-encryption key re-labelled with another id, version or purpose is refused', async () => {
  const [a] = await twoKeys()
  await world.keyring().indexKeys(9, 9)
  for (const attack of [
    `update keys.key_encryption_keys set version = 2 where purpose = 'data'`,
    `update keys.key_encryption_keys d set wrapped = o.wrapped from keys.key_encryption_keys o where d.purpose = 'data' and o.purpose = 'index'`,
    `set session_replication_role = replica; update keys.key_encryption_keys set id = decode('00112233445566778899aabbccddeeff', 'hex') where purpose = 'data';
     update keys.data_keys set kek_id = decode('00112233445566778899aabbccddeeff', 'hex'); set session_replication_role = origin`,
  ]) {
    await tampered(attack, attack.includes(';') ? (undefined as never) : [], async () => {
      await refuses((keyring) => keyring.keyFor(a))
      await refuses((keyring) => keyring.check())
    })
  }
  await tampered(`update keys.data_keys set kek_id = (select id from keys.key_encryption_keys where purpose = 'index')`, [], () => refuses((keyring) => keyring.keyFor(a)))
})

test('attack: the active key-encryption key retired by hand does not make the service begin a new one in silence', async () => {
  await twoKeys()
  await tampered(`update keys.key_encryption_keys set state = 'decrypt_only' where purpose = 'data'`, [], async () => {
    await refuses((keyring) => keyring.keyFor(scopeOf()))
  })
})

test('attack: index keys of two columns swapped or re-assigned are refused', async () => {
  await world.keyring().indexKeys(5, 1)
  await world.keyring().indexKeys(5, 2)
  const swap = `update keys.index_keys d set wrapped = o.wrapped from keys.index_keys o where d.table_id = 5 and o.table_id = 5 and d.column_id <> o.column_id`
  await tampered(swap, [], async () => {
    await refuses((keyring) => keyring.indexKeys(5, 1))
  })
  await tampered(`update keys.index_keys set column_id = 3 where table_id = 5 and column_id = 1`, [], () => refuses((keyring) => keyring.indexKeys(5, 3)))
  await tampered(`update keys.index_keys set version = 2 where table_id = 5 and column_id = 1`, [], () => refuses((keyring) => keyring.indexKeys(5, 1)))
})

test('attack: a signing key planted, published falsely or moved to another purpose is refused', async () => {
  await world.keyring().purposeKey('token-sign')
  await world.keyring().purposeKey('audit-anchor')
  await tampered(`update keys.purpose_keys set public_key = $1 where purpose = 'token-sign'`, [randomBytes(44)], () => refuses((keyring) => keyring.purposeKey('token-sign')))
  await tampered(`update keys.purpose_keys set purpose = 'backup-manifest' where purpose = 'audit-anchor'`, [], () => refuses((keyring) => keyring.purposeKey('backup-manifest')))
  // An additional public key, "only for verification", would let the attacker sign tokens.
  await tampered(
    `insert into keys.purpose_keys (purpose, kid, version, kek_id, wrapped, public_key)
      select purpose, repeat('A', 43), 7, kek_id, wrapped, public_key from keys.purpose_keys where purpose = 'token-sign'`,
    [],
    () => refuses((keyring) => keyring.purposeKey('token-sign')),
  )
  // Nor is a pair taken for one of which only the public half is left: what is wrapped says itself which it is.
  await tampered(`update keys.purpose_keys set holds = 'public' where purpose = 'token-sign'`, [], () => refuses((keyring) => keyring.purposeKey('token-sign')))
})

test('attack: the wrapped key of an erased subject put back from an old dump stays shut', async () => {
  const [a, , one] = await twoKeys()
  await database.admin(`create table public.old_dump as select * from keys.data_keys where key_id = $1`, [one])
  await world.keyring().destroy(a)
  await assert.rejects(database.admin('insert into keys.data_keys table public.old_dump'), { code: 'RD410' })
  await database.admin(`set session_replication_role = replica; insert into keys.data_keys table public.old_dump; set session_replication_role = origin`)
  assert.equal((await world.keyring().byId([one])).size, 0)
  await assert.rejects(world.keyring().keyFor(a), refusedWith('key_destroyed'))
  await database.admin('delete from keys.data_keys where key_id = $1; drop table public.old_dump'.replace('$1', `'\\x${one.toString('hex')}'`))
})

test('another root key over existing data is a clear refusal, and nothing new is begun under it', async () => {
  const [a] = await twoKeys()
  const folder = await secretFolder()
  try {
    const service = await openKeyService(`local:${folder.path}/root.key`, { production: false, create: true, dataExists: () => Promise.resolve(false) })
    const before = (await database.admin('select from keys.key_encryption_keys')).length
    const explained = (error: unknown): boolean =>
      refusedWith('key_refused')(error) && error instanceof Error && 'detail' in error && /put back the root key file/.test(String(error.detail))
    await assert.rejects(world.keyring({ service }).check(), explained)
    await assert.rejects(world.keyring({ service }).keyFor(a), explained)
    await assert.rejects(world.keyring({ service }).keyFor(scopeOf()), explained)
    await database.admin(`delete from keys.purpose_keys; delete from keys.key_encryption_keys where purpose = 'purpose'`)
    await assert.rejects(world.keyring({ service }).purposeKey('token-sign'), explained)
    assert.ok((await database.admin('select from keys.key_encryption_keys')).length <= before)
  } finally {
    await folder.remove()
  }
})

test('attack: the keys of another service, under the same root, are refused', async () => {
  const [a] = await twoKeys()
  await assert.rejects(world.keyring({ realm: 'another' }).keyFor(a), refusedWith('key_refused'))
})
