import { resolve } from 'node:path'
import { backupLocal } from '../../kms/local.ts'
import { exits, UsageProblem, type Io } from '../io.ts'
import { optionsOf } from './options.ts'

export const usage = `redoubt keys backup <file>

Copies the local root key file to <file> (mode 0600, must not exist). Without the root key nothing that was ever
sealed can be opened: keep the copy away from the database and its backups.

  --root <file>   the root key file; by default the one KMS names (local:<file>)
`

function rootOf(given: string | undefined, setting: string | undefined): string {
  if (given !== undefined) return given
  if (setting?.startsWith('local:') === true && setting.length > 6) return setting.slice(6)
  throw new UsageProblem('name the root key file with --root, or set KMS=local:<file>')
}

/** `redoubt keys backup <file>`. @param args what follows `backup` */
export async function backup(args: readonly string[], io: Io): Promise<number> {
  const { values, word } = optionsOf(args, { root: { type: 'string' } })
  const id = await backupLocal(resolve(io.cwd, rootOf(values.root, io.env['KMS'])), resolve(io.cwd, word))
  io.out(`Copied root key ${id}. Keep the copy away from the database and its backups.\n`)
  return exits.ok
}
