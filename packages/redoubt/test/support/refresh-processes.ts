import { fork, type ChildProcess } from 'node:child_process'
import { join } from 'node:path'
import type { TestDatabase } from './database.ts'
import type { Shared } from './identity.ts'
import type { Answered, Asked, Opening } from './refresh-process.ts'

/** Several server processes over one database; each asked in turn. */
export type Servers = {
  /** Lets the process of this number refresh. */
  refresh(server: number, asked: Omit<Asked, 'id'>): Promise<readonly (string | null)[]>
  stop(): Promise<void>
}

export async function startServers(database: TestDatabase, shared: Shared, many: number): Promise<Servers> {
  const opening: Opening = {
    urls: { app: database.url('app'), keys: database.url('keys') }, service: database.service,
    privateKey: shared.pair.privateKey.export({ format: 'der', type: 'pkcs8' }).toString('base64'), successorKey: shared.successorKey.toString('base64'),
  }
  const waiting = new Map<number, (tokens: readonly (string | null)[]) => void>()
  let next = 0
  const children: ChildProcess[] = Array.from({ length: many }, () => fork(join(import.meta.dirname, 'refresh-process.ts'), { stdio: 'inherit', execArgv: [] }))
  await Promise.all(children.map((child) => new Promise<void>((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`a server process ended with ${code ?? 0}`)))
    child.on('message', (message: Answered | { readonly ready: true }) => {
      if ('ready' in message) return resolve()
      waiting.get(message.id)?.(message.tokens)
      waiting.delete(message.id)
    })
    child.send(opening)
  })))
  return {
    refresh: (server, asked) => new Promise((resolve) => {
      const id = next++
      waiting.set(id, resolve)
      children[server % many]?.send({ ...asked, id } satisfies Asked)
    }),
    async stop() {
      await Promise.all(children.map((child) => new Promise((resolve) => {
        child.once('exit', resolve)
        child.disconnect()
      })))
    },
  }
}
