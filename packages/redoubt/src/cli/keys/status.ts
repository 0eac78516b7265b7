import { keyStatus, type KeyStatus } from '../../keyring/status.ts'
import { aligned, exits, type Io } from '../io.ts'
import { onKeys } from './opened.ts'
import { optionsOf } from './options.ts'

export const usage = `redoubt keys status [--json] [--all]

Every key and its versions, from the root down: state, age, where it is, what depends on it, and when it should be
rotated at the latest. Nothing secret is shown, and the key service is not asked.

  --all     also destroyed key-encryption keys
  --json    as JSON

Needs KEYS_DATABASE_URL. Exit codes: 0, or 1 when the time to rotate has passed for one of them.
`

const day = 86_400_000

function age(since: Date | null, now: number): string {
  if (since === null) return ''
  const minutes = Math.max(0, Math.floor((now - since.getTime()) / 60_000))
  if (minutes < 120) return `${minutes} min`
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} days`
}

/** Caller keys are replaced by the processes themselves, a little late where one is busy. */
function isOverdue({ rotateBy, level }: KeyStatus, now: number): boolean {
  return rotateBy !== null && rotateBy.getTime() + (level === 'caller' ? day : 0) < now
}

function due(row: KeyStatus, now: number): string {
  if (row.rotateBy === null) return ''
  return `${row.rotateBy.toISOString().slice(0, 10)}${isOverdue(row, now) ? ' OVERDUE' : ''}`
}

/** An ARN or a key URL is long: its end tells them apart. */
function shortened(text: string): string {
  return text.length <= 48 ? text : `…${text.slice(-47)}`
}

function table(rows: readonly KeyStatus[], now: number): string {
  return aligned(
    ['KEY', 'VERSION', 'STATE', 'AGE', 'WRAPPED BY', 'DEPENDS ON IT', 'ROTATE BY'],
    rows.map((row) => [row.name, row.version, row.state, age(row.since, now), shortened([row.provider, row.keyRef].filter((part) => part !== '').join(' ')), row.dependants, due(row, now)]),
  )
}

/** `redoubt keys status`. @param args what follows `status` */
export async function status(args: readonly string[], io: Io): Promise<number> {
  const { values } = optionsOf(args, { json: { type: 'boolean' }, all: { type: 'boolean' } }, 'none')
  return onKeys(io, async (pool) => {
    const now = Date.now()
    const rows = (await keyStatus(pool)).filter(({ state }) => values.all === true || state !== 'destroyed')
    const overdue = rows.some((row) => isOverdue(row, now))
    if (values.json === true) io.out(`${JSON.stringify(rows, null, 2)}\n`)
    else if (rows.length === 0) io.out('There are no keys yet: the first use makes them.\n')
    else io.out(table(rows, now))
    return overdue ? exits.failed : exits.ok
  })
}
