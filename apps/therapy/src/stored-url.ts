import { readFile } from 'node:fs/promises'
import type { Environment } from 'redoubt/config'

/**
 * Reads a connection string again from its mounted file (`<name>_FILE`): the password in it may have been replaced since
 * the start. Undefined where it stands in the environment, which does not change.
 */
export function storedUrl(env: Environment, name: string): (() => Promise<string>) | undefined {
  const path = env[`${name}_FILE`]
  return path === undefined ? undefined : async () => (await readFile(path, 'utf8')).trim()
}
