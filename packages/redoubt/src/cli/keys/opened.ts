import type { Emit, Event } from '../../events.ts'
import { openKeyService, type KeyService } from '../../kms.ts'
import { keyServiceOptions } from '../../kms/environment.ts'
import { startKeyUsage, type KeyUsage } from '../../keyring/usage.ts'
import { openPool, type Pool } from '../../pg.ts'
import { connectionString, demand, onDatabase, required } from '../database.ts'
import { UsageProblem, type Io } from '../io.ts'

/** What a command on keys works with. */
export type Opened = { readonly pool: Pool; readonly service: KeyService; readonly realm: string; readonly emit: Emit; readonly usage: KeyUsage }

/** The service's name: given, or the login of KEYS_DATABASE_URL without `_keys`. */
export function realmOf(io: Io, given: string | undefined): string {
  if (given !== undefined) return given
  const user = decodeURIComponent(connectionString(io, 'KEYS_DATABASE_URL').username)
  if (!user.endsWith('_keys')) throw new UsageProblem('the login is not called …_keys: name the service with --service')
  return user.slice(0, -'_keys'.length)
}

/** One line per event on the error output: what happened to which key, also where the command ends badly. */
function reporter(io: Io): Emit {
  return (event: Event) => {
    if (event.type === 'key.rotated' || event.type === 'key.created') io.err(`${event.type} ${event.purpose} ${event.key}\n`)
    if (event.type === 'key.retired') io.err(`${event.type} ${event.purpose} ${event.keys}\n`)
    if (event.type === 'key.service_failed') io.err(`${event.type} ${event.provider} ${event.code}\n`)
  }
}

/** Runs work on a pool of the keys role; whoever asks the key service for a key meanwhile is noted. */
export function onKeys<T>(io: Io, work: (pool: Pool, emit: Emit, usage: KeyUsage) => Promise<T>): Promise<T> {
  return onDatabase(io, 'KEYS_DATABASE_URL', async (url) => {
    const emit = reporter(io)
    // Counting a million keys takes its time.
    const pool = openPool({ url, max: 2, statementTimeout: 600_000, emit })
    const usage = startKeyUsage({ pool, emit })
    try {
      return await work(pool, emit, usage)
    } finally {
      await usage.stop()
      await pool.close()
    }
  })
}

/**
 * Opens the key service that a setting names, with what the environment says of it.
 * @param more previous: another service that opens what has not moved; create: may make the file of a local root
 */
export function serviceOf(io: Io, setting: string, emit: Emit, more: { readonly previous?: boolean; readonly create?: boolean } = {}): Promise<KeyService> {
  const { previous, ...options } = keyServiceOptions(io.env)
  return openKeyService(setting, {
    ...options, production: io.env['NODE_ENV'] === 'production', emit,
    ...(more.previous === true && previous !== undefined ? { previous } : {}),
    ...(more.create === true ? { create: true, dataExists: () => Promise.resolve(false) } : {}),
  })
}

/** Runs work on the keys role's pool and the key service of KMS (with KMS_PREVIOUS, where keys are being moved). */
export function withKeys<T>(io: Io, service: string | undefined, work: (opened: Opened) => Promise<T>): Promise<T> {
  demand(io, 'KEYS_DATABASE_URL', 'KMS')
  const realm = realmOf(io, service)
  return onKeys(io, async (pool, emit, usage) => {
    const keyService = await serviceOf(io, required(io, 'KMS'), emit, { previous: true })
    try {
      return await work({ pool, service: keyService, realm, emit, usage })
    } finally {
      keyService.close()
    }
  })
}
