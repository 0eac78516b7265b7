import assert from 'node:assert/strict'
import { createSecretKey, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { addressPrefix, deviceLabel } from '../../src/tokens/device.ts'
import { familyHash, readToken, successorOf, tokenHash } from '../../src/tokens/refresh-token.ts'
import { refreshSession } from '../../src/tokens/refresh.ts'
import type { SignedIn } from '../../src/tokens/sessions.ts'
import { testDatabase } from '../support/database.ts'
import { agent, openIdentity, openTwo, refreshRefused, visitor } from '../support/identity.ts'
import { startServers } from '../support/refresh-processes.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const { one, two, shared, seen } = await openTwo(database)

const attemptId = (): string => randomBytes(16).toString('base64url')
type Way = { readonly attempt?: string; readonly agent?: string | undefined; readonly address?: string | null; readonly by?: typeof one }
const refresh = (token: string, { attempt, agent: header = agent, address = visitor.address, by = one }: Way = {}): Promise<SignedIn> =>
  refreshSession(by.identity, { ...visitor, address }, { token, attempt, agent: header })
const fresh = async (): Promise<SignedIn> => one.signIn((await one.account()).indexes)
const stands = (session: SignedIn): Promise<unknown> => one.look(one.person(session.token))

test('a refresh gives a new access token and a new refresh token of the same session, and the old one is no longer the newest', async () => {
  const first = await fresh()
  assert.match(first.refresh, /^[A-Za-z0-9_-]{64}$/)
  const second = await refresh(first.refresh)
  assert.equal(second.session, first.session)
  assert.notEqual(second.refresh, first.refresh)
  assert.notEqual(second.token, first.token)
  await stands(second)
  await refresh((await refresh(second.refresh, { by: two })).refresh)
  const [row] = await database.admin('select generation, device, address_prefix, revoked_at from redoubt.sessions where id = $1', [first.session])
  assert.deepEqual(row, { generation: 3, device: 'Firefox on Linux', address_prefix: '192.0.2.0/24', revoked_at: null })
  assert.equal(seen('auth.refreshed', first.session), 3)
})

test('nothing in the row is a token, nor anything from which one could be computed without the key', async () => {
  const first = await fresh()
  const second = await refresh(first.refresh)
  const [row] = await database.admin<{ text: string }>('select s::text as text from redoubt.sessions s where id = $1', [first.session])
  for (const token of [first.refresh, second.refresh]) {
    const hex = Buffer.from(token, 'base64url').toString('hex')
    for (const part of [token, hex, hex.slice(0, 32), hex.slice(32)]) assert.ok(!row?.text.includes(part))
  }
  const successor = { version: 1, key: createSecretKey(randomBytes(32)) }
  const { keyring } = one.identity
  const other = await openIdentity(database, shared, { keyring: { indexKeys: (table, column) => (column === 1 ? Promise.resolve([successor]) : keyring.indexKeys(table, column)) } })
  const replayed = await refresh(first.refresh, { by: other })
  await other.close()
  assert.notEqual(replayed.refresh, second.refresh, 'presented token and row alone do not give the successor')
})

test('a lost answer: the retry with the same attempt gets the same successor, on any instance, from anywhere, and each is an event', async () => {
  const first = await fresh()
  const attempt = attemptId()
  const answers = [
    await refresh(first.refresh, { attempt }), await refresh(first.refresh, { attempt, by: two }), await refresh(first.refresh, { attempt, agent: 'other', address: '198.51.100.1' }),
  ]
  assert.equal(new Set(answers.map((answer) => answer.refresh)).size, 1)
  assert.equal(seen('auth.refresh_replayed', first.session), 2)
  for (const answer of answers) await stands(answer)
})

test('without an attempt, the same user agent and network stand in for it', async () => {
  const first = await fresh()
  const second = await refresh(first.refresh)
  assert.equal((await refresh(first.refresh, { address: '192.0.2.200', by: two })).refresh, second.refresh)
})

const replays: readonly (readonly [string, (first: SignedIn) => Promise<void>, Way])[] = [
  ['with another attempt', async (first) => void (await refresh(first.refresh, { attempt: attemptId() })), { attempt: attemptId() }],
  ['without the attempt that the first try had', async (first) => void (await refresh(first.refresh, { attempt: attemptId() })), {}],
  ['with an attempt where the first try had none', async (first) => void (await refresh(first.refresh)), { attempt: attemptId() }],
  ['by another user agent', async (first) => void (await refresh(first.refresh)), { agent: 'Mozilla/5.0 thief' }],
  ['from another network', async (first) => void (await refresh(first.refresh)), { address: '192.0.3.7' }],
  ['from no address', async (first) => void (await refresh(first.refresh, { address: null })), { address: null }],
  ['after the successor was used', async (first) => void (await refresh((await refresh(first.refresh)).refresh)), {}],
  ['many generations later', async (first) => {
    let { refresh: token } = first
    for (let i = 0; i < 5; i++) ({ refresh: token } = await refresh(token))
  }, {}],
  ['after ten seconds', async (first) => {
    await refresh(first.refresh)
    await database.admin(`update redoubt.sessions set rotated_at = rotated_at - interval '10 seconds' where id = $1`, [first.session])
  }, {}],
]
for (const [how, before, way] of replays) {
  test(`attack: a refresh token is used a second time ${how}: the session ends`, async () => {
    const first = await fresh()
    await before(first)
    await assert.rejects(refresh(first.refresh, way), refreshRefused)
    assert.equal(seen('auth.refresh_reused', first.session), 1)
    const [row] = await database.admin<{ revoke_reason: string }>('select revoke_reason from redoubt.sessions where id = $1', [first.session])
    assert.equal(row?.revoke_reason, 'reuse')
    await assert.rejects(stands(first), refreshRefused)
    const [entries] = await database.admin<{ n: number }>(`select count(*)::int as n from redoubt.audit_logs where action = 'auth.refresh_reused' and resource_id = $1`, [first.session])
    assert.equal(entries?.n, 1)
  })
}

test('a retry just inside ten seconds is still one', async () => {
  const first = await fresh()
  const second = await refresh(first.refresh)
  await database.admin(`update redoubt.sessions set rotated_at = clock_timestamp() - interval '5 seconds' where id = $1`, [first.session])
  assert.equal((await refresh(first.refresh)).refresh, second.refresh)
})

test('attack: the successor of a token that was reused opens nothing either', async () => {
  const first = await fresh()
  const second = await refresh(first.refresh)
  const third = await refresh(second.refresh)
  await assert.rejects(refresh(first.refresh), refreshRefused)
  await assert.rejects(refresh(third.refresh), refreshRefused)
})

test('attack: garbage, a guessed family and a token with other bytes: one answer, and nobody who never held a token ends a session', async () => {
  const first = await fresh()
  for (const token of ['', 'x', 'A'.repeat(64), randomBytes(48).toString('base64url'), `${first.refresh}A`, first.refresh.slice(1), first.token, `${first.refresh.slice(0, 63)}=`, "' or 1=1 --"]) {
    await assert.rejects(refresh(token), refreshRefused)
  }
  await stands(await refresh(first.refresh))
})

test('attack: a token of one realm is unknown at the door of the other', async () => {
  const first = await fresh()
  await assert.rejects(refreshSession({ ...one.identity, realm: 'platform' }, visitor, { token: first.refresh, agent }), refreshRefused)
  await stands(await refresh(first.refresh))
})

test('idle and absolute lifetimes end a session, a refresh prolongs the one and not the other', async () => {
  for (const column of ['idle_expires_at', 'absolute_expires_at']) {
    const first = await fresh()
    await database.admin(`update redoubt.sessions set ${column} = now() where id = $1`, [first.session])
    await assert.rejects(refresh(first.refresh), refreshRefused)
    assert.equal(seen('auth.refresh_reused', first.session), 0)
  }
  const first = await fresh()
  const read = async (): Promise<{ idle: number; absolute: Date } | undefined> =>
    (await database.admin<{ idle: number; absolute: Date }>(`select extract(epoch from idle_expires_at - last_used_at)::float8 as idle, absolute_expires_at as absolute from redoubt.sessions where id = $1`, [first.session]))[0]
  const before = await read()
  await database.admin(`update redoubt.sessions set idle_expires_at = now() + interval '1 minute' where id = $1`, [first.session])
  await refresh(first.refresh)
  const now = await read()
  assert.ok(Math.abs((now?.idle ?? 0) - 86_400) < 1 && Math.abs((before?.idle ?? 0) - 86_400) < 1)
  assert.deepEqual(now?.absolute, before?.absolute)
})

test('attack: a suspended account refreshes nothing, even where its session stands', async () => {
  const { id, indexes } = await one.account()
  const first = await one.signIn(indexes)
  await database.admin(`update redoubt.users set status = 'suspended' where id = $1`, [id])
  await assert.rejects(refresh(first.refresh), refreshRefused)
})

test('fifty parallel refreshes of one token over two instances: one exchange, one successor, every replay an event, no session lost', async () => {
  for (const attempt of [undefined, attemptId()]) {
    const first = await fresh()
    const answers = await Promise.all(Array.from({ length: 50 }, (_, i) => refresh(first.refresh, { ...(attempt === undefined ? {} : { attempt }), by: i % 2 === 0 ? one : two })))
    assert.equal(new Set(answers.map((answer) => answer.refresh)).size, 1)
    assert.equal(seen('auth.refreshed', first.session), 1)
    assert.equal(seen('auth.refresh_replayed', first.session), 49)
    await stands(answers[0] as SignedIn)
    await refresh((answers[7] as SignedIn).refresh)
  }
})

test('the same over two server processes: one successor for all, and a replay with another attempt ends the session in both', async () => {
  const servers = await startServers(database, shared, 2)
  try {
    for (let round = 0; round < 4; round++) {
      const first = await fresh()
      const attempt = attemptId()
      const answers = (await Promise.all([0, 1].map((server) => servers.refresh(server, { token: first.refresh, times: 25, attempt })))).flat()
      assert.equal(new Set(answers).size, 1)
      assert.ok(typeof answers[0] === 'string', 'nobody was refused')
      const [next] = await servers.refresh(1, { token: answers[0], times: 1 })
      assert.ok(typeof next === 'string')
      assert.deepEqual(await servers.refresh(0, { token: first.refresh, times: 1, attempt: attemptId() }), [null])
      for (const server of [0, 1]) assert.deepEqual(await servers.refresh(server, { token: next, times: 1 }), [null])
    }
  } finally {
    await servers.stop()
  }
})

test('attack: fifty parallel refreshes with attempts of their own: at most one gets a successor, and it is worth nothing', async () => {
  const first = await fresh()
  const answers = await Promise.allSettled(Array.from({ length: 50 }, (_, i) => refresh(first.refresh, { attempt: attemptId(), by: i % 2 === 0 ? one : two })))
  const given = answers.filter((answer) => answer.status === 'fulfilled')
  assert.equal(given.length, 1)
  assert.equal(seen('auth.refresh_reused', first.session), 1)
  await assert.rejects(refresh((given[0] as PromiseFulfilledResult<SignedIn>).value.refresh), refreshRefused)
})

test('a device is named from a fixed list, never in the words of its header', () => {
  for (const [header, label] of [
    [agent, 'Firefox on Linux'], ['Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0', 'Edge on Windows'], ['Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) Version/18.0 Safari/604.1', 'Safari on iPhone'],
    ['Mozilla/5.0 (Linux; Android 15) Chrome/140.0 Mobile Safari/537.36', 'Chrome on Android'], ['curl/8.5.0', 'curl'], [undefined, 'Unknown device'], ['<script>', 'Unknown device'],
  ] as const) assert.equal(deviceLabel(header), label)
})

test('a network is /24 of IPv4 and /64 of IPv6, however it is written', () => {
  for (const [address, prefix] of [
    ['192.0.2.7', '192.0.2.0/24'], ['::ffff:192.0.2.7', '192.0.2.0/24'], ['2001:db8:0:1::5', '2001:db8:0:1::/64'], ['2001:DB8::1', '2001:db8:0:0::/64'], ['::1', '0:0:0:0::/64'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2::/64'], ['fe80::1%eth0', 'fe80:0:0:0::/64'], ['nonsense', null], [null, null],
  ] as const) assert.equal(addressPrefix(address), prefix)
})

test('the vectors of docs/formats.md hold', async () => {
  const text = await readFile(join(import.meta.dirname, '../vectors/refresh.json'), 'utf8')
  for (const vector of JSON.parse(text) as readonly Record<'token' | 'key' | 'salt' | 'family_hash' | 'token_hash' | 'successor', string>[]) {
    const token = readToken(vector.token)
    assert.ok(token !== undefined)
    const salt = Buffer.from(vector.salt, 'hex')
    assert.equal(familyHash(token).toString('hex'), vector.family_hash)
    assert.equal(tokenHash(token).toString('hex'), vector.token_hash)
    const keys = [{ version: salt[0] ?? 0, key: createSecretKey(Buffer.from(vector.key, 'hex')) }]
    assert.equal(successorOf(token, salt, keys)?.toString('base64url'), vector.successor)
    assert.equal(successorOf(token, salt, [{ version: 200, key: createSecretKey(Buffer.from(vector.key, 'hex')) }]), undefined, 'a key that is gone')
  }
})
