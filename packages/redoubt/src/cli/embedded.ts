import { createHmac, randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Emit } from '../events.ts'
import { Refusal } from '../errors.ts'
import { prepareBinaries } from './embedded/binaries.ts'
import { createCluster, findRunning, settings, startCluster, stopCluster, superuserPassword } from './embedded/cluster.ts'
import { settlePlace } from './embedded/place.ts'
import { commandOf } from './embedded/process.ts'
import { alone, countUsers, enter, leave } from './embedded/users.ts'

export type Embedded = {
  readonly port: number
  /** True when the server ran already: left by a killed process, or used by another live one. */
  readonly adopted: boolean
  /** Connection string of the superuser to the database `postgres`. */
  readonly adminUrl: string
  /**
   * Connection string of any role to any database, with `passwordFor` of that role. The role has this password only
   * after somebody set it (cli/roles.ts, passwordSql).
   */
  url(user: string, database: string): string
  /** Derived from the superuser's password, so that it need not be kept anywhere. */
  passwordFor(user: string): string
  /** Calls `tell` when the server ends without `stop`: killed, out of memory, crashed. It is looked at every second. */
  onGone(tell: () => void): void
  /** Fast shutdown, unless another live process uses the same server: the last one out stops it. */
  stop(): Promise<void>
}

/**
 * Password of a role as derived from the secret of its server: HMAC-SHA-256, so that no role learns another's.
 * @param secret the superuser's password
 */
export function derivedPassword(secret: string, user: string): string {
  return createHmac('sha256', secret).update(`redoubt login\0${user}`).digest('base64url')
}

/**
 * Starts the PostgreSQL of the npm platform package for this folder, or adopts the one that runs there already.
 * It is a real server in a real data folder: scram passwords only, on 127.0.0.1 only, with data checksums.
 *
 * Several processes may use one folder at a time; the last to call `stop` stops the server. A server left behind by
 * kill -9 is adopted when it runs with the same settings, and restarted otherwise.
 * @param options.folder git-ignored folder for data, password and port; made when absent
 * @param options.port a port that must be used; by default a free one is picked and remembered
 * @param options.insecureNoFsync for throw-away test data only: a crash of the machine destroys the database
 * @throws TypeError for a wrong argument
 * @throws Refusal database_unavailable when the server cannot run here, and says what to do
 */
export async function startEmbedded(options: {
  readonly folder: string
  readonly port?: number
  readonly emit?: Emit
  readonly insecureNoFsync?: boolean
}): Promise<Embedded> {
  const { port: wanted, emit = () => undefined, insecureNoFsync = false } = options
  if (options.folder === '') throw new TypeError('startEmbedded: folder must be a path')
  if (wanted !== undefined && !(Number.isInteger(wanted) && wanted > 0 && wanted < 65_536)) {
    throw new TypeError('startEmbedded: port must be a whole number from 1 to 65535')
  }
  const place = await settlePlace(options.folder)
  const { running, adopted, password, user, binaries } = await alone(place.folder, async () => {
    const programs = await prepareBinaries(place.home, place.identity)
    const secret = await superuserPassword(place, () => randomBytes(32).toString('base64url'))
    await createCluster(place, programs, secret, !insecureNoFsync)
    const wish = settings(insecureNoFsync)
    const found = await findRunning(place)
    const fits = found !== undefined && found.command.includes(wish) && (wanted === undefined || wanted === found.port)
    if (found !== undefined && !fits) {
      if ((await countUsers(place.folder)) > 0) {
        throw new Refusal('database_unavailable', {
          detail: `the server of ${place.folder} is used by another process with other settings (port, fsync): stop that one first`,
        })
      }
      await stopCluster(place, programs)
    }
    const server = fits ? found : await startCluster(place, programs, wish, wanted)
    return { running: server, adopted: fits, password: secret, user: await enter(place.folder), binaries: programs }
  })
  emit({ type: 'service.started', service: 'postgresql', detail: `127.0.0.1:${running.port}${adopted ? ' (adopted)' : ''}` })

  const passwordFor = (name: string): string => (name === 'postgres' ? password : derivedPassword(password, name))
  const url = (name: string, database: string): string =>
    `postgresql://${encodeURIComponent(name)}:${passwordFor(name)}@127.0.0.1:${running.port}/${encodeURIComponent(database)}`
  let stopped: Promise<void> | undefined
  const watches = new Set<NodeJS.Timeout>()
  function unwatch(): void {
    for (const timer of watches) clearInterval(timer)
  }
  return {
    port: running.port,
    adopted,
    adminUrl: url('postgres', 'postgres'),
    url,
    passwordFor,
    onGone(tell) {
      const timer = setInterval(() => {
        void commandOf(running.pid).then((command) => {
          if (command === running.command || stopped !== undefined) return
          unwatch()
          tell()
        })
      }, 1000)
      watches.add(timer.unref())
    },
    stop: () =>
      (stopped ??= alone(place.folder, async () => {
        unwatch()
        await leave(place.folder, user)
        if ((await countUsers(place.folder)) > 0) return
        await stopCluster(place, binaries)
        emit({ type: 'service.stopped', service: 'postgresql' })
      })),
  }
}

/**
 * Stops the server of this folder and removes its data, wherever that lives (as root it may be outside the folder).
 * @throws Refusal database_unavailable while a live process uses it
 */
export async function removeEmbedded(folder: string): Promise<void> {
  if (folder === '') throw new TypeError('removeEmbedded: folder must be a path')
  if (!existsSync(folder)) return
  const place = await settlePlace(folder)
  await alone(place.folder, async () => {
    if ((await countUsers(place.folder)) > 0) {
      throw new Refusal('database_unavailable', { detail: `the server of ${place.folder} is used by another process: stop that one first` })
    }
    if ((await findRunning(place)) !== undefined) {
      await stopCluster(place, await prepareBinaries(place.home, place.identity))
    }
    await rm(join(place.home, 'data'), { recursive: true, force: true })
    if (place.home !== place.folder) await rm(place.home, { recursive: true, force: true })
  })
  await rm(place.folder, { recursive: true, force: true })
}
