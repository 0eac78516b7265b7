import { Worker } from 'node:worker_threads'
import { Refusal } from '../errors.ts'

export type Parameters = { readonly algorithm: number; readonly memoryCost: number; readonly timeCost: number; readonly parallelism: number }
/** To hash a text, or to verify it against a PHC string. */
export type PasswordJob = { readonly phc?: string; readonly text: string | Uint8Array; readonly parameters?: Parameters }
/** undefined: it could not be done. */
export type PasswordResult = { readonly value: string | boolean | undefined }

/** Threads of this process without work; the lanes in front of them bound how many there are. */
const idle: Worker[] = []

function start(): Worker {
  // It needs none of the environment, which holds connection strings.
  const thread = new Worker(new URL('./password-thread.ts', import.meta.url), { name: 'redoubt-password', env: {} })
  thread.on('error', () => undefined)
  thread.once('exit', () => {
    const at = idle.indexOf(thread)
    if (at >= 0) idle.splice(at, 1)
  })
  return thread
}

/**
 * One job on a thread of its own priority (password-thread.ts). A thread that waits for work holds no process up.
 * @throws Refusal busy when the thread ended, as it does for want of memory
 */
function run(job: PasswordJob): Promise<string | boolean | undefined> {
  const thread = idle.pop() ?? start()
  thread.ref()
  return new Promise((resolve, reject) => {
    const ended = (): void => reject(new Refusal('busy', { retryAfter: 1 }))
    thread.once('exit', ended)
    thread.once('message', ({ value }: PasswordResult) => {
      thread.off('exit', ended)
      thread.unref()
      idle.push(thread)
      resolve(value)
    })
    thread.postMessage(job)
  })
}

/** The PHC string of a text. @throws Refusal busy */
export async function hashApart(text: string | Uint8Array, parameters: Parameters): Promise<string> {
  const phc = await run({ text, parameters })
  if (typeof phc !== 'string') throw new TypeError('hashApart: argon2id refused its parameters')
  return phc
}

/** Whether a text is the one of a PHC string. @throws Refusal busy; TypeError for what is none */
export async function verifyApart(phc: string, text: string): Promise<boolean> {
  const right = await run({ phc, text })
  if (typeof right !== 'boolean') throw new TypeError('verifyApart: what is stored is no PHC string of argon2id')
  return right
}
