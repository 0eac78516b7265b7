import { createPublicKey, type KeyObject } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { resumeAudit } from '../audit.ts'
import { anchorPath, openAnchors } from '../audit/anchor.ts'
import { verifyAudit, type Verification } from '../audit/verify.ts'
import { openKeyring, type Keyring } from '../keyring.ts'
import { kidOf } from '../keyring/purpose-keys.ts'
import { startKeyUsage } from '../keyring/usage.ts'
import { openKeyService } from '../kms.ts'
import { keyServiceOptions } from '../kms/environment.ts'
import { openPool, type Pool } from '../pg.ts'
import { searchOf, type Sought } from './audit/find.ts'
import { connectionString, demand, onDatabase, required } from './database.ts'
import { asksForHelp, counted, exits, UsageProblem, type Io } from './io.ts'

const usage = `redoubt audit verify   [--anchors <dir>] [--public-key <file>]… [--service <name>] [--json]
redoubt audit resume   --reason <text> [--anchors <dir>] [--service <name>]
redoubt audit find     [--actor <id>] [--action <name>] [--outcome done|refused|failed] [--resource <type>[/<id>]]
                       [--from <time>] [--to <time>] [--before <entry>] [--limit <n>]

verify recomputes every entry and link of the audit record and holds them against the signed anchors. It may run while
the service works. resume takes the chain up again after a restore: it writes a discontinuity and signs it.
find gives entries, newest first, one JSON object a line, without personal data; where there are more it says how to go on.

  --anchors <dir>       folder of the anchor file; by default ANCHOR_DIR
  --public-key <file>   a trusted public key of the anchors (PEM), kept apart from the database; may be repeated.
                        Without it the keys come from the keyring: KEYS_DATABASE_URL and KMS must be set
  --service <name>      by default the login's name without its role
  --reason <text>       what happened, for the record; no personal data
  --json                the result as JSON
  --outcome <word>      also with its code, as refused:forbidden
  --from, --to <time>   in UTC: 2026-01-31 or 2026-01-31T14:00:00Z; --to is not included
  --limit <n>           1 to 1000, by default 100

verify and find work on AUDITOR_DATABASE_URL, resume on WORKER_DATABASE_URL.
Exit codes: 0 nothing is wrong, 1 something is or it could not be checked, 2 wrong usage
`

const quiet = (): void => undefined

function serviceOf(io: Io, name: string, role: string, given: string | undefined): string {
  if (given !== undefined) return given
  const user = decodeURIComponent(connectionString(io, name).username)
  if (!user.endsWith(`_${role}`)) throw new UsageProblem(`the login is not called …_${role}: name the service with --service`)
  return user.slice(0, -role.length - 1)
}

async function withKeyring<T>(io: Io, service: string, work: (keyring: Keyring) => Promise<T>): Promise<T> {
  return onPool(io, 'KEYS_DATABASE_URL', async (pool) => {
    const keyService = await openKeyService(required(io, 'KMS'), { ...keyServiceOptions(io.env), production: io.env['NODE_ENV'] === 'production' })
    const usageRecord = startKeyUsage({ pool, emit: quiet })
    const keyring = openKeyring({ pool, service: keyService, realm: service, emit: quiet, usage: usageRecord, by: { actor: 'operator', purpose: 'audit' } })
    try {
      return await work(keyring)
    } finally {
      await usageRecord.stop()
      keyring.close()
      keyService.close()
    }
  })
}

async function publicKeys(io: Io, service: string, files: readonly string[]): Promise<ReadonlyMap<string, KeyObject>> {
  if (files.length === 0) return withKeyring(io, service, async (keyring) => (await keyring.purposeKey('audit-anchor')).verifiers)
  const keys = await Promise.all(files.map(async (file) => createPublicKey(await readFile(resolve(io.cwd, file)))))
  for (const key of keys) if (key.asymmetricKeyType !== 'ed25519') throw new UsageProblem('--public-key must be an Ed25519 key')
  return new Map(keys.map((key) => [kidOf(key), key]))
}

function onPool<T>(io: Io, name: string, work: (pool: Pool) => Promise<T>): Promise<T> {
  return onDatabase(io, name, async (url) => {
    // A statement may have to look at the whole record once.
    const pool = openPool({ url, max: 1, statementTimeout: 3_600_000, emit: quiet })
    try {
      return await work(pool)
    } finally {
      await pool.close()
    }
  })
}

function report(result: Verification): string {
  const lines = [
    `${counted(result.entries, 'entry', 'entries')}, ${result.removed} removed by retention, ${result.unsealed} not sealed yet; chain up to ${result.head}`,
    result.anchors === 0
      ? 'No anchors: what an administrator of the database has changed cannot be told.'
      : `Anchored up to ${result.anchored} (${counted(result.anchors, 'line')})`,
    ...result.discontinuities.map(({ seq, at, lost }) => `Resumed after a restore at ${seq} (${at}); ${counted(lost, 'sealed entry was', 'sealed entries were')} lost`),
    ...result.problems.map(({ kind, seq, entry, detail }) => `PROBLEM ${kind}${seq === null ? '' : ` at ${seq}`}${entry === null ? '' : ` entry ${entry}`}: ${detail}`),
  ]
  if (result.problemCount > result.problems.length) lines.push(`… and ${result.problemCount - result.problems.length} more`)
  lines.push(result.problemCount === 0 ? 'Nothing is wrong.' : `${counted(result.problemCount, 'problem')}.`)
  return lines.join('\n')
}

async function verify(io: Io, options: { readonly anchors: string; readonly keyFiles: readonly string[]; readonly service: string | undefined; readonly json: boolean }): Promise<number> {
  const service = serviceOf(io, 'AUDITOR_DATABASE_URL', 'auditor', options.service)
  const keys = await publicKeys(io, service, options.keyFiles)
  const result = await onPool(io, 'AUDITOR_DATABASE_URL', (pool) =>
    verifyAudit({ query: (statement) => pool.query(statement), service, anchors: anchorPath(options.anchors, service), publicKeys: keys }))
  io.out(`${options.json ? JSON.stringify(result, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value), 2) : report(result)}\n`)
  return result.problemCount === 0 ? exits.ok : exits.failed
}

async function resume(io: Io, options: { readonly anchors: string; readonly service: string | undefined; readonly reason: string }): Promise<number> {
  const service = serviceOf(io, 'WORKER_DATABASE_URL', 'worker', options.service)
  await withKeyring(io, service, async (keyring) => {
    const key = await keyring.purposeKey('audit-anchor')
    const anchors = await openAnchors({ directory: options.anchors, service, key })
    try {
      const { point, after } = await onPool(io, 'WORKER_DATABASE_URL', (pool) => resumeAudit({ pool, anchors, publicKeys: key.verifiers, reason: options.reason }))
      io.out(`The chain goes on behind a discontinuity at ${point.seq}; earlier anchors hold up to ${after}.\n`)
    } finally {
      await anchors.close()
    }
  })
  return exits.ok
}

async function find(io: Io, sought: Sought): Promise<number> {
  const search = searchOf(sought)
  const { lines, next } = await onPool(io, 'AUDITOR_DATABASE_URL', search)
  for (const line of lines) io.out(`${line}\n`)
  // Beside the entries, so that what reads the lines meets nothing else.
  if (next !== undefined) io.err(`There are more: go on with --before ${next}\n`)
  return exits.ok
}

function optionsOf(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        anchors: { type: 'string' }, service: { type: 'string' }, reason: { type: 'string' }, json: { type: 'boolean', default: false },
        'public-key': { type: 'string', multiple: true, default: [] },
        actor: { type: 'string' }, action: { type: 'string' }, outcome: { type: 'string' }, resource: { type: 'string' },
        from: { type: 'string' }, to: { type: 'string' }, before: { type: 'string' }, limit: { type: 'string' },
      },
    })
  } catch (error) {
    throw new UsageProblem(error instanceof Error ? error.message : 'wrong options', { cause: error })
  }
}

/** `redoubt audit verify`, `redoubt audit resume` and `redoubt audit find`. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { values, positionals } = optionsOf(args)
  const [command, ...more] = positionals
  if ((command !== 'verify' && command !== 'resume' && command !== 'find') || more.length > 0) throw new UsageProblem('say verify, resume or find')
  if (command === 'find') return find(io, values)
  const withKeys = command === 'resume' || values['public-key'].length === 0
  demand(io, ...(values.anchors === undefined ? ['ANCHOR_DIR'] : []), command === 'verify' ? 'AUDITOR_DATABASE_URL' : 'WORKER_DATABASE_URL', ...(withKeys ? ['KEYS_DATABASE_URL', 'KMS'] : []))
  const anchors = resolve(io.cwd, values.anchors ?? required(io, 'ANCHOR_DIR'))
  if (command === 'verify') return verify(io, { anchors, keyFiles: values['public-key'], service: values.service, json: values.json })
  if (values.reason === undefined) throw new UsageProblem('resume needs --reason')
  return resume(io, { anchors, service: values.service, reason: values.reason })
}
