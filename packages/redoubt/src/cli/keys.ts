import { parseArgs } from 'node:util'
import { Refusal } from '../errors.ts'
import { backupLocal } from '../kms/local.ts'

const usage = `redoubt keys backup <file>

Copies the local root key file to <file> (mode 0600, must not exist). Without the root key nothing that was ever
sealed can be opened: keep the copy away from the database and its backups.

  --root <file>   the root key file; by default the one KMS names (local:<file>)
`

/** Exit codes of the command: done, refused by the world, wrong usage. */
const exits = { done: 0, refused: 1, usage: 2 } as const

function rootOf(given: string | undefined, setting: string | undefined): string | null {
  if (given !== undefined) return given
  return setting?.startsWith('local:') === true && setting.length > 6 ? setting.slice(6) : null
}

/**
 * `redoubt keys backup <file>`.
 * @param args what follows `keys` on the command line
 * @returns the exit code: 0 done, 1 refused, 2 wrong usage
 */
export async function run(args: readonly string[]): Promise<number> {
  let parsed
  try {
    parsed = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { root: { type: 'string' }, help: { type: 'boolean', short: 'h', default: false } },
    })
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : 'wrong usage'}\n\n${usage}`)
    return exits.usage
  }
  const [command, to, ...more] = parsed.positionals
  if (parsed.values.help) {
    process.stdout.write(usage)
    return exits.done
  }
  if (command !== 'backup' || to === undefined || more.length > 0) {
    process.stderr.write(usage)
    return exits.usage
  }
  const from = rootOf(parsed.values.root, process.env['KMS'])
  if (from === null) {
    process.stderr.write('redoubt keys backup: name the root key file with --root, or set KMS=local:<file>\n')
    return exits.usage
  }
  try {
    const id = await backupLocal(from, to)
    process.stdout.write(`Copied root key ${id}. Keep the copy away from the database and its backups.\n`)
    return exits.done
  } catch (error) {
    if (!(error instanceof Refusal)) throw error
    process.stderr.write(`redoubt keys backup: ${error.detail ?? error.message}\n`)
    return exits.refused
  }
}
