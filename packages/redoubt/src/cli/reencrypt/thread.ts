import { once } from 'node:events'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import { openRenewer, type Renewed, type Renewer, type RenewPage, type RenewTable } from '../../reencrypt/renew.ts'

/** MB of young objects in the thread: it makes some twenty for each row, and none of them is kept. */
const youngMegabytes = 16

/**
 * A renewer in a thread of its own: while it opens and seals one page, this thread and the server have another. It gets
 * opened keys as KeyObjects, of which no bytes are copied, and only those that the pages name.
 */
export function renewerInThread(table: RenewTable): Renewer {
  const thread = new Worker(new URL(import.meta.url), { workerData: { renewTable: table }, resourceLimits: { maxYoungGenerationSizeMb: youngMegabytes } })
  // Answers come in the order of the pages.
  let waiting: { resolve(renewed: Renewed): void; reject(error: Error): void }[] = []
  let ended: Error | undefined
  const fail = (error: Error): void => {
    ended = error
    for (const { reject } of waiting) reject(error)
    waiting = []
  }
  thread.on('message', (renewed: Renewed) => waiting.shift()?.resolve(renewed))
  thread.on('error', fail)
  thread.on('exit', () => fail(new Error('reencrypt: the thread of a job ended')))
  return {
    renew(page) {
      if (ended !== undefined) return Promise.reject(ended)
      return new Promise((resolve, reject) => {
        waiting.push({ resolve, reject })
        thread.postMessage(page)
      })
    },
    async close() {
      if (ended !== undefined) return
      const gone = once(thread, 'exit')
      thread.postMessage(null)
      await gone
    },
  }
}

const table = (workerData as { readonly renewTable?: RenewTable } | null)?.renewTable
if (table !== undefined && parentPort !== null) {
  const port = parentPort
  const renew = openRenewer(table)
  port.on('message', (page: RenewPage | null) => {
    if (page === null) {
      port.close()
      return
    }
    const renewed = renew(page)
    port.postMessage(renewed, [renewed.ids, ...renewed.olds, ...renewed.news].map(({ buffer }) => buffer as ArrayBuffer))
  })
}
