import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { after, test } from 'node:test'
import { dispatch } from '../src/cli.ts'
import { openKeyring, type Keyring } from '../src/keyring.ts'
import { unrecorded } from './support/unrecorded.ts'
import { openKeyService } from '../src/kms.ts'
import { openPool } from '../src/pg.ts'
import { openSigner } from '../src/transaction/signer.ts'
import { testDatabase } from './support/database.ts'
import { secretFolder } from './support/keys.ts'

const database = await testDatabase()
const folder = await secretFolder()
const pool = openPool({ url: database.url('keys'), max: 2, emit: () => undefined })
const root = `local:${folder.path}/root.key`
const service = await openKeyService(root, { production: false, create: true, dataExists: () => Promise.resolve(false) })
const rings: Keyring[] = []
after(async () => {
  for (const ring of rings) ring.close()
  await pool.close()
  await folder.remove()
})
const env = { KEYS_DATABASE_URL: database.url('keys'), KMS: root, NODE_ENV: 'test' }
const scope = { tenant: 'realm', subject: randomUUID(), keep: 'account' }

function ring(): Keyring {
  const opened = openKeyring({ pool, service, realm: database.service, emit: () => undefined, usage: unrecorded })
  rings.push(opened)
  return opened
}

async function keys(words: string, more: Readonly<Record<string, string>> = {}): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  let [out, err] = ['', '']
  const code = await dispatch(['keys', ...words.split(' ')], {
    env: { ...env, ...more }, cwd: new URL('../../..', import.meta.url).pathname, out: (text) => void (out += text), err: (text) => void (err += text),
  })
  return { code, out, err }
}

/** Every secret of this database, as it stands in memory. */
async function says(words: string, code: number, pattern: RegExp, more?: Readonly<Record<string, string>>): Promise<string> {
  const result = await keys(words, more)
  const text = result.out + result.err
  assert.equal(result.code, code, text)
  assert.match(text, pattern)
  assert.doesNotMatch(text, /password|postgres:\/\//)
  return text
}

test('keys status: nothing yet, then every level with its state, age and dependants; an overdue key is exit code 1', async () => {
  await says('status', 0, /There are no keys yet/)
  const first = ring()
  await first.keyFor(scope)
  await first.indexKeys(1, 2)
  await first.purposeKey('token-sign')
  await first.purposeKey('audit-anchor')
  const text = await says('status', 0, /KEY +VERSION +STATE +AGE +WRAPPED BY +DEPENDS ON IT +ROTATE BY/)
  for (const line of [/^root +active +0 min +local [0-9a-f]{32} +3 key-encryption keys +\d{4}-/m, /^kek:data +1 +active.* 1 data key +\d/m, /^data +1 key +active/m, /^index:1\.2 +1 +active/m, /^token-sign +1 +active/m]) assert.match(text, line)
  const parsed = JSON.parse((await keys('status --json')).out) as readonly { readonly name: string; readonly rotateBy: string }[]
  assert.ok(parsed.some(({ name, rotateBy }) => name === 'token-sign' && rotateBy > new Date().toISOString()))
  await database.admin(`update keys.purpose_keys set created_at = now() - interval '91 days' where purpose = 'token-sign'`)
  await says('status', 1, /^token-sign .*OVERDUE$/m)
})

test('keys rotate and retire kek: the old version is refused while it is needed, destroyed when not, and status tells', async () => {
  await says('retire kek:data', 1, /there is no older key-encryption key for data/)
  await says('rotate kek:data', 0, /kek:data: rotated; 1 key is wrapped under [0-9a-f]{32}/)
  await says('status', 1, /^kek:data +1 +decrypt_only .* 0 data keys/m)
  await says('retire kek:data', 0, /kek:data: 1 older version is destroyed/)
  await says('status --all', 1, /^kek:data +1 +destroyed/m)
  await says('rotate kek', 0, /kek:purpose: rotated; 2 keys/)
  await says('retire kek', 0, /kek:index: 1 older version is/)
  assert.ok((await ring().keyFor(scope)).key.type === 'secret')
})

test('keys rotate data: given again it goes on with what is left and rotates nothing twice, unless asked by a moment; retire is refused without a proof', async () => {
  const { id } = await ring().keyFor(scope)
  await says('rotate data --before 2020-01-01T00:00:00Z', 0, /data: 0 keys have a new version/)
  await says(`rotate data --subject ${scope.subject}`, 0, /data: 1 key has a new version; every process seals under it within 6 minutes/)
  assert.ok(!(await ring().keyFor(scope)).id.equals(id))
  const { id: rotated } = await ring().keyFor(scope)
  const another = { ...scope, subject: randomUUID() }
  const { id: fresh } = await ring().keyFor(another)
  await says('rotate data', 0, /data: 1 key has a new version, 1 had one already;/)
  assert.ok((await ring().keyFor(scope)).id.equals(rotated) && !(await ring().keyFor(another)).id.equals(fresh))
  await says('rotate data', 1, /nothing is left to rotate\. 2 keys were rotated by .*Z, and their old versions are not retired[^]*rotate data --before \d{4}-/)
  await says(`rotate data --subject ${scope.subject}`, 1, new RegExp(`1 key was rotated by [^]*, and its old version is not retired[^]*rotate data --subject ${scope.subject} --before`))
  assert.ok((await ring().keyFor(scope)).id.equals(rotated))
  const moment = new Date().toISOString()
  await says(`rotate data --before ${moment}`, 0, /data: 2 keys have a new version;/)
  await says(`rotate data --before ${moment}`, 0, /data: 0 keys have a new version;/)
  assert.ok(!(await ring().keyFor(scope)).id.equals(rotated))
  await says('retire data', 2, /--app <folder of the app> is missing/)
  await says('status', 1, /^data +4 keys +decrypt_only/m)
})

test('keys rotate and retire index, by number or by name: not while processes may still write it', async () => {
  await says('rotate index:redoubt.users.email_bidx', 2, /a name needs --app/)
  await says('rotate index:redoubt.users.email_enc --app apps/therapy', 2, /no blind index of tables.ts/)
  await says('rotate index:redoubt.users.email_bidx --app apps/therapy', 0, /index:1\.2: version 2 is looked up from now on and written in 6 minutes/)
  await says('rotate index:1.2', 1, /an earlier rotation of this index key is not finished/)
  await says('status', 1, /^index:1\.2 +2 +pending .*written from \d\d:\d\d:\d\d UTC/m)
  await says('retire index:1.2 --app apps/therapy', 1, /processes may still write version 1: it can be retired in 1\d minutes/)
  await says('rotate index:9.9', 1, /no blind-index key yet/)
})

test('keys retire index: a key of passwords is kept while a hash is under it, one that nobody knows is kept', async () => {
  const first = ring()
  await first.indexKeys(1, 100)
  await first.indexKeys(9, 9)
  for (const which of ['index:1.100', 'index:9.9']) await says(`rotate ${which}`, 0, /version 2 is looked up/)
  await database.admin(`update keys.index_keys set use_from = use_from - interval '1 hour' where (table_id, column_id) in ((1, 100), (9, 9))`)
  await database.admin(`insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role) values ($1, 'realm', 'x', 'x', '1$argon2id$v=19$x', 'patient')`, [scope.subject])
  await says('retire index:1.100 --app apps/therapy', 1, /1 hash is under version 1/)
  await database.admin(`update redoubt.users set password_hash = '2$argon2id$v=19$x'`)
  await says('retire index:1.100 --app apps/therapy', 0, /index:1\.100: version 1 is gone/)
  await says('retire index:9.9 --app apps/therapy', 1, /nobody knows what depends on index:9\.9/)
  await database.admin('delete from redoubt.users')
})

test('keys retire index: the key of recovery codes waits for the codes that are left, or ends them', async () => {
  const first = ring()
  await first.indexKeys(14, 1)
  await says('rotate index:14.1', 0, /version 2 is looked up/)
  await says('retire index:14.1 --app apps/therapy --at-once', 1, /processes may still write version 1/)
  await database.admin(`update keys.index_keys set use_from = use_from - interval '1 hour' where table_id = 14`)
  await database.admin(`insert into redoubt.users (id, tenant, email_enc, email_bidx, password_hash, role) values ($1, 'realm', 'x', 'x', '2$argon2id$v=19$x', 'patient')`, [scope.subject])
  await database.admin(`insert into redoubt.recovery_codes (id, user_id, tenant, code_hash, last_used_at)
    select gen_random_uuid(), $1, 'realm', set_byte(sha256(n::text::bytea) || 'x', 0, case when n < 4 then 1 else 2 end), case when n = 3 then now() end from generate_series(1, 5) n`, [scope.subject])
  await says('status', 1, /^index:14\.1 +1 +decrypt_only .* 2 hashes of its version/m)
  await says('retire index:14.1 --app apps/therapy', 1, /2 recovery codes are under version 1: codes end when they are used or replaced, or all now with --at-once/)
  await says('retire index:1.2 --app apps/therapy --at-once', 2, /--at-once is for signing keys of tokens and for the index key of recovery codes/)
  await says('retire index:14.1 --app apps/therapy --at-once', 0, /2 recovery codes of 1 person ended\.\nindex:14\.1: version 1 is gone/)
  const left = await database.admin<{ version: number }>('select get_byte(code_hash, 0) as version from redoubt.recovery_codes where last_used_at is null')
  assert.deepEqual(left.map(({ version }) => version), [2, 2])
  await database.admin('delete from redoubt.recovery_codes')
  await database.admin('delete from redoubt.users')
})

test('keys rotate and retire signing keys: refused while tokens live; anchors keep their public half', async () => {
  await says('rotate backup-manifest', 2, /is no key: root, kek, data, index, caller or audit-anchor, token-sign/)
  await says('rotate token-sign', 0, /verifies from now on and signs in 6 minutes/)
  await says('status', 0, /^token-sign +2 +pending .*signs from/m)
  await says('retire token-sign', 1, /is still valid: it can be retired in 2\d minutes/)
  await says('rotate token-sign --at-once', 0, /signs at once/)
  await says('retire token-sign --at-once', 0, /token-sign: (?:1 older key is|2 older keys are) gone/)
  await says('rotate audit-anchor --at-once', 0, /signs at once/)
  await says('retire audit-anchor --at-once', 2, /must stay verifiable/)
  await database.admin(`update keys.purpose_keys set use_from = use_from - interval '1 hour' where purpose = 'audit-anchor'`)
  await says('retire audit-anchor', 0, /1 older key is gone; its public half stays/)
  await says('status', 0, /^audit-anchor +1 +public half/m)
})

test('keys rotate caller ends the keys of running processes, which make new ones', async () => {
  const signer = await openSigner(pool, database.service)
  await says('rotate caller', 0, /caller: 1 key ends in 120 seconds/)
  await says('status', 0, /^caller .*1 key of running processes/m)
  await says('rotate caller --at-once', 0, /caller: 1 key ended/)
  await signer.close()
  await says('retire caller', 1, /end by themselves/)
})

test('the local root moves to a new file, and each deed is in the audit record', async () => {
  await says('rotate root', 1, /the local root key is one file/)
  await says('retire root', 1, /disable that version there/)
  await says('move', 2, /KMS_PREVIOUS must be set/)
  await says('move', 2, /name the same key/, { KMS_PREVIOUS: root })
  const next = `local:${folder.path}/next.key`
  await says('move', 1, /root key file is missing/, { KMS: next, KMS_PREVIOUS: root })
  await says('move --create', 0, /3 key-encryption keys moved to local, 0 were there, 4 were destroyed before/, { KMS: next, KMS_PREVIOUS: root })
  await says('move', 0, /0 key-encryption keys moved to local, 3 were there/, { KMS: next, KMS_PREVIOUS: root })
  const entries = await database.admin<{ deed: string; n: number }>(`select action || ' ' || split_part(metadata->>'kind', ':', 1) as deed, count(*)::int4 as n from redoubt.audit_logs where actor_role = 'system.keys' group by 1`)
  assert.deepEqual(entries.map(({ deed, n }) => `${deed} ${n}`).sort(), [
    'key.moved kek 3', 'key.retired audit-anchor 1', 'key.retired index 2', 'key.retired kek 4', 'key.retired recovery-codes 1', 'key.retired token-sign 2', 'key.rotated audit-anchor 1', 'key.rotated caller 2', 'key.rotated data 3', 'key.rotated index 4', 'key.rotated kek 4', 'key.rotated token-sign 2',
  ])
})

test('attack: the app, worker, auditor and migrator can neither rotate nor retire nor write such entries', async () => {
  for (const login of ['app', 'worker', 'auditor', 'ingest'] as const) {
    const other = openPool({ url: database.url(login), max: 1, emit: () => undefined })
    for (const call of [`guard.note_key('key.rotated', 'data', null, '{}')`, 'guard.expire_caller_keys(0)', 'guard.end_recovery_codes(1)', `keys.retire_kek('x')`, `keys.retire_data_keys(now(), 1)`, `keys.retire_index_key(1, 2, 1, 0, now())`]) {
      await assert.rejects(other.query({ text: `select ${call}`, values: [] }), call)
    }
    await other.close()
  }
})
