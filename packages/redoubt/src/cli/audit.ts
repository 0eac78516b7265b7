import { createHash, createPublicKey, type KeyObject } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { resumeAudit } from '../audit.ts'
import { anchorPath, openAnchors } from '../audit/anchor.ts'
import { verifyAudit, type Verification } from '../audit/verify.ts'
import { Refusal } from '../errors.ts'
import { openKeyring, type Keyring } from '../keyring.ts'
import { openKeyService } from '../kms.ts'
import { openPool, type Pool } from '../pg.ts'

const usage = `redoubt audit verify   [--anchors <dir>] [--public-key <file>]… [--service <name>] [--json]
redoubt audit resume   --reason <text> [--anchors <dir>] [--service <name>]

verify recomputes every entry and link of the audit record and holds them against the signed anchors. It may run while
the service works. resume takes the chain up again after a restore: it writes a discontinuity and signs it.

  --anchors <dir>       folder of the anchor file; by default ANCHOR_DIR
  --public-key <file>   a trusted public key of the anchors (PEM), kept apart from the database; may be repeated.
                        Without it the keys come from the keyring: KEYS_DATABASE_URL and KMS must be set
  --service <name>      by default the login's name without its role
  --reason <text>       what happened, for the record; no personal data
  --json                the result as JSON

verify works on AUDITOR_DATABASE_URL, resume on WORKER_DATABASE_URL.
Exit codes: 0 nothing is wrong, 1 something is, 2 wrong usage, 3 could not be checked
`

const exits = { whole: 0, findings: 1, usage: 2, refused: 3 } as const

class Usage extends Error {}

const quiet = (): void => undefined

function setting(name: string): string {
  const value = process.env[name]
  if (value === undefined || value === '') throw new Usage(`${name} must be set`)
  return value
}

function serviceOf(url: string, role: string, given: string | undefined): string {
  if (given !== undefined) return given
  const user = decodeURIComponent(new URL(url).username)
  if (!user.endsWith(`_${role}`)) throw new Usage(`the login is not called …_${role}: name the service with --service`)
  return user.slice(0, -role.length - 1)
}

/** RFC 7638 §3, as the keyring names its keys. */
function kidOf(key: KeyObject): string {
  const { x } = key.export({ format: 'jwk' })
  return createHash('sha256').update(JSON.stringify({ crv: 'Ed25519', kty: 'OKP', x })).digest('base64url')
}

async function withKeyring<T>(service: string, work: (keyring: Keyring) => Promise<T>): Promise<T> {
  const pool = openPool({ url: setting('KEYS_DATABASE_URL'), max: 1, emit: quiet })
  const keyService = await openKeyService(setting('KMS'), { production: process.env['NODE_ENV'] === 'production' })
  const keyring = openKeyring({ pool, service: keyService, realm: service, emit: quiet })
  try {
    return await work(keyring)
  } finally {
    keyring.close()
    keyService.close()
    await pool.close()
  }
}

async function publicKeys(service: string, files: readonly string[]): Promise<ReadonlyMap<string, KeyObject>> {
  if (files.length === 0) return withKeyring(service, async (keyring) => (await keyring.purposeKey('audit-anchor')).verifiers)
  const keys = await Promise.all(files.map(async (file) => createPublicKey(await readFile(file))))
  for (const key of keys) if (key.asymmetricKeyType !== 'ed25519') throw new Usage('--public-key must be an Ed25519 key')
  return new Map(keys.map((key) => [kidOf(key), key]))
}

async function onPool<T>(url: string, work: (pool: Pool) => Promise<T>): Promise<T> {
  // A statement may have to look at the whole record once.
  const pool = openPool({ url, max: 1, statementTimeout: 3_600_000, emit: quiet })
  try {
    return await work(pool)
  } finally {
    await pool.close()
  }
}

function report(result: Verification): string {
  const lines = [
    `${result.entries} entries, ${result.removed} removed by retention, ${result.unsealed} not sealed yet; chain up to ${result.head}`,
    result.anchors === 0
      ? 'No anchors: what an administrator of the database has changed cannot be told.'
      : `Anchored up to ${result.anchored} (${result.anchors} lines)`,
    ...result.discontinuities.map(({ seq, at, lost }) => `Resumed after a restore at ${seq} (${at}); ${lost} sealed entries were lost`),
    ...result.problems.map(({ kind, seq, entry, detail }) => `PROBLEM ${kind}${seq === null ? '' : ` at ${seq}`}${entry === null ? '' : ` entry ${entry}`}: ${detail}`),
  ]
  if (result.problemCount > result.problems.length) lines.push(`… and ${result.problemCount - result.problems.length} more`)
  lines.push(result.problemCount === 0 ? 'Nothing is wrong.' : `${result.problemCount} problems.`)
  return lines.join('\n')
}

async function verify(options: { readonly anchors: string; readonly keyFiles: readonly string[]; readonly service: string | undefined; readonly json: boolean }): Promise<number> {
  const url = setting('AUDITOR_DATABASE_URL')
  const service = serviceOf(url, 'auditor', options.service)
  const keys = await publicKeys(service, options.keyFiles)
  const result = await onPool(url, (pool) =>
    verifyAudit({ query: (statement) => pool.query(statement), service, anchors: anchorPath(options.anchors, service), publicKeys: keys }))
  process.stdout.write(`${options.json ? JSON.stringify(result, (_, value: unknown) => (typeof value === 'bigint' ? String(value) : value), 2) : report(result)}\n`)
  return result.problemCount === 0 ? exits.whole : exits.findings
}

async function resume(options: { readonly anchors: string; readonly service: string | undefined; readonly reason: string }): Promise<number> {
  const url = setting('WORKER_DATABASE_URL')
  const service = serviceOf(url, 'worker', options.service)
  await withKeyring(service, async (keyring) => {
    const key = await keyring.purposeKey('audit-anchor')
    const anchors = await openAnchors({ directory: options.anchors, service, key })
    try {
      const { point, after } = await onPool(url, (pool) => resumeAudit({ pool, anchors, publicKeys: key.verifiers, reason: options.reason }))
      process.stdout.write(`The chain goes on behind a discontinuity at ${point.seq}; earlier anchors hold up to ${after}.\n`)
    } finally {
      await anchors.close()
    }
  })
  return exits.whole
}

/**
 * `redoubt audit verify` and `redoubt audit resume`.
 * @param args what follows `audit` on the command line
 * @returns the exit code: 0 nothing wrong, 1 findings, 2 wrong usage, 3 could not be checked
 */
export async function run(args: readonly string[]): Promise<number> {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        anchors: { type: 'string' }, service: { type: 'string' }, reason: { type: 'string' }, json: { type: 'boolean', default: false },
        'public-key': { type: 'string', multiple: true, default: [] }, help: { type: 'boolean', short: 'h', default: false },
      },
    })
    if (values.help) {
      process.stdout.write(usage)
      return exits.whole
    }
    const [command, ...more] = positionals
    if ((command !== 'verify' && command !== 'resume') || more.length > 0) throw new Usage('say verify or resume')
    const anchors = values.anchors ?? setting('ANCHOR_DIR')
    if (command === 'verify') return await verify({ anchors, keyFiles: values['public-key'], service: values.service, json: values.json })
    if (values.reason === undefined) throw new Usage('resume needs --reason')
    return await resume({ anchors, service: values.service, reason: values.reason })
  } catch (error) {
    if (error instanceof Usage || (error instanceof TypeError && 'code' in error && String(error.code).startsWith('ERR_PARSE_ARGS'))) {
      process.stderr.write(`audit: ${error.message}\n\n${usage}`)
      return exits.usage
    }
    if (!(error instanceof Refusal)) throw error
    process.stderr.write(`audit: ${error.detail ?? error.message}\n`)
    return exits.refused
  }
}
