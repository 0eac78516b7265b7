import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { openAnchors } from '../../src/audit/anchor.ts'
import { startSequencer } from '../../src/audit/sequencer.ts'
import { anchorKey, auditWorld, until } from '../support/audit.ts'
import { testDatabase } from '../support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await auditWorld(database)
const folder = await mkdtemp(join(tmpdir(), 'redoubt-audit-cli-'))
after(async () => {
  await world.close()
  await rm(folder, { recursive: true, force: true })
})

const cli = join(import.meta.dirname, '../../src/cli.ts')

/** The command in a process of its own, as an operator starts it. */
function redoubt(args: readonly string[], env: Readonly<Record<string, string>>): Promise<{ readonly code: number; readonly out: string; readonly err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, 'audit', ...args], { env: { PATH: process.env['PATH'] ?? '', NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'], ...env } }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err })
    })
  })
}

test('verify says in its exit code whether something is wrong', async () => {
  const given = anchorKey()
  const publicKey = given.verifiers.get(given.kid) ?? assert.fail()
  const kid = createHash('sha256').update(JSON.stringify({ crv: 'Ed25519', kty: 'OKP', x: publicKey.export({ format: 'jwk' }).x })).digest('base64url')
  const anchors = await openAnchors({ directory: folder, service: database.service, key: { kid, privateKey: given.privateKey, verifiers: new Map([[kid, publicKey]]) } })
  await world.write(12)
  const sequencer = startSequencer({ pool: world.worker, anchors, emit: () => undefined, intervalMs: 20, anchorMs: 0 })
  await until('all is anchored', () => sequencer.gauge().anchored === 12n)
  await sequencer.stop()
  await anchors.close()
  const pem = join(folder, 'key.pem')
  await writeFile(pem, publicKey.export({ format: 'pem', type: 'spki' }))

  const env = { AUDITOR_DATABASE_URL: database.url('auditor'), ANCHOR_DIR: dirname(anchors.path) }
  const whole = await redoubt(['verify', '--public-key', pem], env)
  assert.equal(whole.code, 0, whole.err)
  assert.match(whole.out, /^12 entries, .*\nAnchored up to 12 \((?:1 line|(?:[2-9]|1\d) lines)\)\nNothing is wrong\.\n$/)

  await world.tamper(`update redoubt.audit_logs set action = 'nothing.done' where id = (select entry_id from redoubt.audit_chain where seq = 7)`)
  const found = await redoubt(['verify', '--public-key', pem], env)
  assert.equal(found.code, 1)
  assert.match(found.out, /PROBLEM entry_altered at 7 [^\n]*\n1 problem\.\n$/)
  const json = await redoubt(['verify', '--public-key', pem, '--json'], env)
  assert.equal((JSON.parse(json.out) as { problems: { seq: string }[] }).problems[0]?.seq, '7')
})

test('wrong usage and a database out of reach are no verification', async () => {
  assert.equal((await redoubt(['verify', '--help'], {})).code, 0)
  for (const args of [[], ['prove'], ['verify', 'all'], ['verify', '--nonsense'], ['verify'], ['resume', '--anchors', folder]]) {
    const { code, err } = await redoubt(args, {})
    assert.equal(code, 2, args.join(' '))
    assert.match(err, /^redoubt audit: /)
  }
  const away = await redoubt(['verify', '--anchors', folder, '--public-key', join(folder, 'key.pem')], { AUDITOR_DATABASE_URL: 'postgresql://demo_auditor:x@127.0.0.1:1/none' })
  assert.equal(away.code, 1, away.err)
  assert.match(away.err, /^redoubt audit: the database cannot be reached at 127\.0\.0\.1:1 \(AUDITOR_DATABASE_URL\)\n$/)
})

test('find gives entries by what is asked, in pages, newest first, and nothing of their personal part', async () => {
  const env = { AUDITOR_DATABASE_URL: database.url('auditor') }
  const found = async (...args: readonly string[]) => {
    const { code, out, err } = await redoubt(['find', ...args], env)
    assert.equal(code, 0, err)
    return { rows: out.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as Record<string, string>), err }
  }
  const all = (await found('--limit', '1000')).rows
  assert.ok(all.length >= 12)
  assert.ok(all.every((row, n) => n === 0 || String(all[n - 1]?.['occurred_at']) >= String(row['occurred_at'])))
  assert.ok(!Object.keys(all[0] ?? {}).some((key) => key.startsWith('personal') || key === 'metadata'))
  const first = await found('--limit', '5')
  const next = /--before (\S+)/.exec(first.err)?.[1] ?? assert.fail()
  assert.deepEqual([...first.rows, ...(await found('--limit', '1000', '--before', next)).rows], all)

  const one = all[3]?.['id'] ?? assert.fail()
  const actor = '0190f0a0-0000-7000-8000-000000000001'
  await world.tamper(`update redoubt.audit_logs set outcome = 'refused:forbidden', action = 'note.read', actor_id = '${actor}', resource_type = 'note', resource_id = 'n/1',
    occurred_at = '2020-01-31T14:00:00Z' where id = '${one}'`)
  const by = [['--outcome', 'refused'], ['--outcome', 'refused:forbidden'], ['--action', 'note.read'], ['--actor', actor], ['--resource', 'note/n/1'], ['--from', '2020-01-31', '--to', '2020-02-01T00:00:00Z']]
  for (const args of by) assert.deepEqual((await found(...args)).rows.map(({ id }) => id), [one], args.join(' '))
  assert.deepEqual((await found('--to', '2020-01-31T14:00:00Z')).rows, [])
  for (const args of [['--actor', 'me'], ['--outcome', 'bad'], ['--from', '2020-01-31T14:00:00'], ['--limit', '0'], ['--resource', "x' or '1"]]) assert.equal((await redoubt(['find', ...args], env)).code, 2, args.join(' '))
})
