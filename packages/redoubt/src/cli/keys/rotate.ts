import { Refusal } from '../../errors.ts'
import { moveKeks } from '../../keyring/move.ts'
import { noticedAfter, openRotation, type DataKeysWanted, type Rotation } from '../../keyring/rotate.ts'
import { tablesOf } from '../app.ts'
import { counted, exits, UsageProblem, type Io } from '../io.ts'
import { onKeys, realmOf, serviceOf, withKeys, type Opened } from './opened.ts'
import { optionsOf } from './options.ts'
import { demand, required } from '../database.ts'
import { whichHelp, whichOf, type Which } from './which.ts'

export const usage = `redoubt keys rotate <which> [options]

Makes the next version of a key while the service runs. Whatever the old version opened stays readable; retire ends it.
An interrupted rotation is finished by the same command. What was rotated before and is not retired yet is not rotated
again by data and index: it says so and ends with 1, and for data how to ask for it.

${whichHelp}
  --before <time>     data: all keys made before this moment (ISO 8601), also those that have an older version not retired
                      yet; the same moment again goes on where it stopped
  --subject <id>      data: only the keys of this person
  --tenant <name>     data: only the keys of this tenant
  --at-once           signing keys: sign with it now, though processes that do not know it yet refuse it for up to six
                      minutes; caller: end the old keys now, though requests fail for up to half a minute. For a key
                      that is known to others
  --app <folder>      the app whose tables.ts has the names of columns
  --service <name>    by default the login's name without _keys

Needs KEYS_DATABASE_URL and, but for caller, KMS.
`

const minutes = Math.ceil(noticedAfter / 60_000)
/** Seconds the old caller keys live on: four looks of each process (transaction/signer). */
const callerSeconds = 120

async function rotateRoot(io: Io, { pool, service, realm, emit, usage }: Opened): Promise<void> {
  if (service.provider === 'local') {
    throw new Refusal('conflict', { detail: 'the local root key is one file: name a new one in KMS=local:<new file>, the present one in KMS_PREVIOUS, then use redoubt keys move --create' })
  }
  const { moved, destroyed } = await moveKeks({ pool, from: service, to: service, realm, emit, usage })
  io.out(`${counted(moved, 'key-encryption key is', 'key-encryption keys are')} wrapped under the newest version of the root key${destroyed > 0 ? `; ${counted(destroyed, 'was', 'were')} destroyed` : ''}.\n`)
}

async function rotateKeks(io: Io, rotation: Rotation, which: Which & { readonly level: 'key-encryption' }): Promise<void> {
  for (const purpose of which.purposes) {
    const { finished, rewrapped, key } = await rotation.keyEncryptionKey(purpose, (count) => io.err(`kek:${purpose}: ${counted(count, 'key')} wrapped anew\n`))
    io.out(`kek:${purpose}: ${finished ? 'the interrupted rotation is finished' : 'rotated'}; ${counted(rewrapped, 'key is', 'keys are')} wrapped under ${key}. The old one wraps nothing: redoubt keys retire kek:${purpose}\n`)
  }
}

async function rotateData(io: Io, rotation: Rotation, wanted: DataKeysWanted): Promise<number> {
  const unrotated = wanted.before === undefined
  const before = unrotated ? await rotation.rotatedDataKeys(wanted) : { keys: 0, last: null }
  const count = await rotation.dataKeys({ ...wanted, unrotated }, (done) => io.err(`data: ${counted(done, 'key')} rotated\n`))
  if (count === 0 && before.last !== null) {
    const scope = [wanted.subject === undefined ? '' : ` --subject ${wanted.subject}`, wanted.tenant === undefined ? '' : ` --tenant ${wanted.tenant}`].join('')
    io.err(`data: nothing is left to rotate. ${counted(before.keys, 'key was', 'keys were')} rotated by ${before.last.toISOString()}, and ${before.keys === 1 ? 'its old version is' : 'their old versions are'} not retired: next is redoubt reencrypt run, then redoubt keys retire data, each with --app <folder>.\n`
      + `Another version means to re-encrypt every value once more. If that is meant: redoubt keys rotate data${scope} --before ${new Date().toISOString()}\n`)
    return exits.failed
  }
  io.out(`data: ${counted(count, 'key has', 'keys have')} a new version${before.keys > 0 ? `, ${before.keys} had one already` : ''}; every process seals under it within ${minutes} minutes. Then close the old keys with redoubt keys retire data, bring old values over with redoubt reencrypt run, and retire again, each with --app <folder>.\n`)
  return exits.ok
}

async function rotateCaller(io: Io, atOnce: boolean): Promise<number> {
  return onKeys(io, async (pool) => {
    const [row] = await pool.query<{ readonly met: number }>({ text: 'select guard.expire_caller_keys($1) as met', values: [atOnce ? 0 : callerSeconds] })
    io.out(atOnce
      ? `caller: ${counted(row?.met ?? 0, 'key')} ended; each process makes a new one within half a minute and refuses requests until then.\n`
      : `caller: ${counted(row?.met ?? 0, 'key ends', 'keys end')} in ${callerSeconds} seconds; each process makes a new one within half a minute.\n`)
    return exits.ok
  })
}

function momentOf(text: string | undefined): Date | undefined {
  if (text === undefined) return undefined
  const moment = new Date(text)
  if (Number.isNaN(moment.getTime())) throw new UsageProblem('--before must be a moment such as 2026-03-01T00:00:00Z')
  return moment
}

/** `redoubt keys rotate <which>`. @param args what follows `rotate` */
export async function rotate(args: readonly string[], io: Io): Promise<number> {
  const { values, word } = optionsOf(args, { before: { type: 'string' }, subject: { type: 'string' }, tenant: { type: 'string' }, 'at-once': { type: 'boolean' }, app: { type: 'string' }, service: { type: 'string' } })
  const { before, subject, tenant, app, service } = values
  const atOnce = values['at-once'] === true
  if ((before !== undefined || subject !== undefined || tenant !== undefined) && word !== 'data') throw new UsageProblem('--before, --subject and --tenant are for data')
  const moment = momentOf(before)
  if (word === 'caller') return rotateCaller(io, atOnce)
  const tables = app === undefined ? undefined : await tablesOf(io, app)
  return withKeys(io, service, async (opened) => {
    const which = await whichOf(opened.pool, word, tables)
    if (atOnce && which.level !== 'signing') throw new UsageProblem('--at-once is for signing keys and caller')
    if (which.level === 'root') {
      await rotateRoot(io, opened)
      return exits.ok
    }
    const rotation = openRotation(opened)
    try {
      if (which.level === 'key-encryption') await rotateKeks(io, rotation, which)
      if (which.level === 'data') return await rotateData(io, rotation, { ...(moment === undefined ? {} : { before: moment }), ...(subject === undefined ? {} : { subject }), ...(tenant === undefined ? {} : { tenant }) })
      if (which.level === 'index') {
        for (const column of which.columns) {
          const { version } = await rotation.indexKey(column)
          io.out(`index:${column.table}.${column.column}: version ${version} is looked up from now on and written in ${minutes} minutes. Recompute in ${2 * minutes} minutes with redoubt reencrypt run, then end the old version with redoubt keys retire index:${column.table}.${column.column}, each with --app <folder>.\n`)
        }
      }
      if (which.level === 'signing') {
        const { kid } = await rotation.purposeKey(which.purpose, atOnce)
        io.out(`${which.purpose}: ${kid} verifies from now on and signs ${atOnce ? 'at once' : `in ${minutes} minutes`}.\n`)
      }
      return exits.ok
    } finally {
      rotation.close()
    }
  })
}

export const moveUsage = `redoubt keys move [options]

Moves the key-encryption keys from the key service that KMS_PREVIOUS names to the one that KMS names. Nothing sealed
changes. Every running process must have been started with both settings before; KMS_PREVIOUS goes when this is done.

  --create            KMS=local:<file>: makes the new root key file
  --service <name>    by default the login's name without _keys
`

/** `redoubt keys move`. @param args what follows `move` */
export async function move(args: readonly string[], io: Io): Promise<number> {
  const { values } = optionsOf(args, { create: { type: 'boolean' }, service: { type: 'string' } }, 'none')
  demand(io, 'KEYS_DATABASE_URL', 'KMS', 'KMS_PREVIOUS')
  const realm = realmOf(io, values.service)
  const [target, source] = [required(io, 'KMS'), required(io, 'KMS_PREVIOUS')]
  if (target === source) throw new UsageProblem('KMS and KMS_PREVIOUS name the same key: redoubt keys rotate root wraps anew under its newest version')
  return onKeys(io, async (pool, emit, usage) => {
    const from = await serviceOf(io, source, emit)
    try {
      const to = await serviceOf(io, target, emit, { create: values.create === true })
      try {
        const { moved, already, destroyed } = await moveKeks({ pool, from, to, realm, emit, usage })
        io.out(`${counted(moved, 'key-encryption key')} moved to ${to.provider}, ${counted(already, 'was', 'were')} there, ${counted(destroyed, 'was', 'were')} destroyed before. KMS_PREVIOUS can go.\n`)
        return exits.ok
      } finally {
        to.close()
      }
    } finally {
      from.close()
    }
  })
}
