import { refreshSession } from '../../src/tokens/refresh.ts'
import { agent, openIdentity, visitor, type Shared } from './identity.ts'
import { createPrivateKey, createPublicKey } from 'node:crypto'
import type { TestDatabase } from './database.ts'

/** What a process of the service is told: where its database is, and the keys it shares with the others, in base64. */
export type Opening = { readonly urls: Readonly<Record<string, string>>; readonly service: string; readonly privateKey: string; readonly successorKey: string }
/** Refresh this token so many times at once, with an attempt of the client or none. */
export type Asked = { readonly id: number; readonly token: string; readonly times: number; readonly attempt?: string }
/** The refresh tokens that came back; null for a refusal. */
export type Answered = { readonly id: number; readonly tokens: readonly (string | null)[] }

/** A server process that does nothing but refresh: sessions of two processes meet in the database alone. */
process.once('message', (opening: Opening) => {
  void serve(opening)
})

async function serve({ urls, service, privateKey, successorKey }: Opening): Promise<void> {
  const key = createPrivateKey({ key: Buffer.from(privateKey, 'base64'), format: 'der', type: 'pkcs8' })
  const shared: Shared = { pair: { privateKey: key, publicKey: createPublicKey(key) }, successorKey: Buffer.from(successorKey, 'base64') }
  const database = { service, url: (login: string) => urls[login] ?? '' } as unknown as TestDatabase
  const { identity, close } = await openIdentity(database, shared)
  process.on('message', ({ id, token, times, attempt }: Asked) => {
    const one = (): Promise<string | null> => refreshSession(identity, visitor, { token, attempt, agent }).then(({ refresh }) => refresh, () => null)
    void Promise.all(Array.from({ length: times }, one)).then((tokens) => process.send?.({ id, tokens } satisfies Answered))
  })
  process.once('disconnect', () => void close())
  process.send?.({ ready: true })
}
