import type { IndexedColumn } from '../../keyring/index-keys.ts'
import type { Purpose } from '../../keyring/purpose-keys.ts'
import { deviceDays } from '../../limits/device.ts'
import { openRetirement, type Retirement } from '../../keyring/retire.ts'
import { accessTokenSeconds, allowedSkewSeconds } from '../../tokens.ts'
import type { Column, Tables } from '../../tables.ts'
import { kernelTables } from '../../tables/kernel.ts'
import type { Pool } from '../../pg.ts'
import { Refusal } from '../../errors.ts'
import { provenFrom, sealedTables } from '../../reencrypt/proven.ts'
import { tablesOf } from '../app.ts'
import { counted, exits, UsageProblem, type Io } from '../io.ts'
import { withKeys } from './opened.ts'
import { optionsOf } from './options.ts'
import { whichHelp, whichOf, type Which } from './which.ts'

export const usage = `redoubt keys retire <which> --app <folder> [options]

Takes the old versions of a key away, and refuses while something depends on them, saying what.

${whichHelp}
  --app <folder>      data, index: the app whose tables.ts says where values may be
  --at-once           signing keys of tokens: do not wait until the last token has expired. For a key that is known to
                      others; what it signed is refused within six minutes. The index key of recovery codes: end the
                      codes that are left under the old version; their owners make new ones when they next sign in
  --service <name>    by default the login's name without _keys

data and index need a proof that no row depends on the old key: redoubt reencrypt leaves it. For data it takes two calls
with a re-encryption between them: the first closes the old keys, the second ends those that the proof was made for.
Of keys whose signatures stay (audit-anchor) the public half is kept. Needs KEYS_DATABASE_URL and KMS.
`

const day = 86_400_000

/**
 * Of a key that no blind index is made with, but hashes (passwords, codes): the database counts what depends on it.
 * @throws Refusal conflict, saying how much that is
 */
async function noHashLeft(pool: Pick<Pool, 'query'>, { table, column }: IndexedColumn, version: number): Promise<Date | null> {
  const [row] = await pool.query<{ readonly left: bigint | null; readonly now: Date }>({ text: 'select guard.key_version_dependants($1, $2, $3) as left, now() as now', values: [table, column, version] })
  const left = row?.left ?? null
  if (row === undefined || left === null) throw new Refusal('conflict', { detail: `nobody knows what depends on index:${table}.${column}: it is kept` })
  if (BigInt(left) > 0n && table === recoveryCodes.table) throw new Refusal('conflict', { detail: `${counted(left, 'recovery code is', 'recovery codes are')} under version ${version}: codes end when they are used or replaced, or all now with --at-once` })
  if (BigInt(left) > 0n) throw new Refusal('conflict', { detail: `${counted(left, 'hash is', 'hashes are')} under version ${version}: hashes are made anew when their owners come, or end by themselves` })
  return row.now
}

const recoveryCodes: IndexedColumn = { table: kernelTables['redoubt.recovery_codes'].id, column: 1 }

function isRecoveryCodes(which: Which): boolean {
  return which.level === 'index' && which.columns.every(({ table, column }) => table === recoveryCodes.table && column === recoveryCodes.column)
}

function isBlindIndex(tables: Tables, { table, column }: IndexedColumn): boolean {
  return Object.values(tables.tables).some(({ id, columns }) => id === table && Object.values<Column>(columns).some((one) => one.kind === 'index' && one.id === column))
}

/** Milliseconds after its last signature for which each is held against us; null: for ever. A page with a form is seldom older than a day. */
function verifiesFor(purpose: Purpose): number | null {
  if (purpose.startsWith('token-sign')) return (accessTokenSeconds + allowedSkewSeconds) * 1000
  if (purpose === 'known-device') return deviceDays * day
  return purpose === 'csrf' || purpose === 'limits' ? day : null
}

async function retireData(io: Io, retirement: Retirement, pool: Pool, tables: Tables): Promise<number> {
  const { retired, closed, waiting } = await retirement.dataKeys(() => provenFrom(pool, sealedTables(tables)))
  io.out(`data: ${counted(retired, 'key is', 'keys are')} gone.\n`)
  if (closed > 0) io.out(`${counted(closed, 'is closed since now or an earlier call and has', 'are closed since now or an earlier call and have')} no proof yet: redoubt reencrypt run --app <folder> over all tables, then retire again.\n`)
  if (waiting > 0) io.out(`${counted(waiting, 'was', 'were')} replaced less than six minutes ago: retire again later.\n`)
  return closed + waiting > 0 ? exits.failed : exits.ok
}

async function endRecoveryCodes(io: Io, pool: Pool, version: number): Promise<void> {
  const [ended] = await pool.query<{ readonly codes: number; readonly people: number }>({ text: 'select e.codes, e.people from guard.end_recovery_codes($1) e', values: [version] })
  io.out(`${counted(ended?.codes ?? 0, 'recovery code')} of ${counted(ended?.people ?? 0, 'person', 'people')} ended.\n`)
}

async function retireOne(io: Io, retirement: Retirement, which: Which, atOnce: boolean, pool: Pool, tables: Tables | undefined): Promise<number> {
  switch (which.level) {
    case 'root':
      throw new Refusal('conflict', { detail: 'the root key is the key service’s: when redoubt keys status names no old version of it any more, disable that version there' })
    case 'caller':
      throw new Refusal('conflict', { detail: 'caller keys end by themselves: redoubt keys rotate caller' })
    case 'key-encryption': {
      // All or one: with one word for all of them, those without an older version are no failure.
      let retired = 0
      for (const purpose of which.purposes) {
        const count = await retirement.keyEncryptionKeys(purpose).catch((error: unknown) => {
          if (which.purposes.length > 1 && error instanceof Refusal && error.code === 'not_found') return 0
          throw error
        })
        if (count > 0) io.out(`kek:${purpose}: ${counted(count, 'older version is', 'older versions are')} destroyed.\n`)
        retired += count
      }
      if (retired === 0) io.out('kek: there is no older version.\n')
      return exits.ok
    }
    case 'data':
    case 'index': {
      if (tables === undefined) throw new UsageProblem('--app <folder of the app> is missing: its tables.ts says where values may be')
      if (which.level === 'data') return retireData(io, retirement, pool, tables)
      for (const column of which.columns) {
        const { version } = await retirement.indexKey(column, async (old) => {
          if (isBlindIndex(tables, column)) return provenFrom(pool, [column.table])
          if (atOnce) await endRecoveryCodes(io, pool, old)
          return noHashLeft(pool, column, old)
        })
        io.out(`index:${column.table}.${column.column}: version ${version} is gone.\n`)
      }
      return exits.ok
    }
    case 'signing': {
      const verifies = verifiesFor(which.purpose)
      if (atOnce && verifies === null) throw new UsageProblem(`--at-once: what ${which.purpose} signed must stay verifiable`)
      const count = await retirement.purposeKeys(which.purpose, verifies, atOnce)
      io.out(`${which.purpose}: ${counted(count, 'older key is', 'older keys are')} gone${verifies !== null ? '' : count === 1 ? '; its public half stays' : '; their public halves stay'}.\n`)
      return exits.ok
    }
  }
}

/** `redoubt keys retire <which>`. @param args what follows `retire` */
export async function retire(args: readonly string[], io: Io): Promise<number> {
  const { values, word } = optionsOf(args, { app: { type: 'string' }, 'at-once': { type: 'boolean' }, service: { type: 'string' } })
  const tables = values.app === undefined ? undefined : await tablesOf(io, values.app)
  return withKeys(io, values.service, async (opened) => {
    const which = await whichOf(opened.pool, word, tables)
    if (values['at-once'] === true && which.level !== 'signing' && !isRecoveryCodes(which)) throw new UsageProblem('--at-once is for signing keys of tokens and for the index key of recovery codes')
    const retirement = openRetirement(opened)
    try {
      return await retireOne(io, retirement, which, values['at-once'] === true, opened.pool, tables)
    } finally {
      retirement.close()
    }
  })
}
