import { fork, type ChildProcess } from 'node:child_process'
import { connect, createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import type { ServiceSettings } from '../../src/service.ts'

/** What a process of the service is opened with, as far as it can be sent to it. */
export type ProcessSettings = Omit<ServiceSettings, 'emit' | 'now' | 'passwords' | 'openedKeys'>
/** What a process tells when it is asked. */
export type Told = { readonly events: Readonly<Record<string, number>>; readonly lag: number }

export type Fleet = {
  /** Of the balancer: each connection goes to the next process. */
  readonly port: number
  /** Events since the start by type, and the longest time its event loop stood still, in milliseconds, since it was asked last. */
  tell(): Promise<readonly Told[]>
  stop(): Promise<void>
}

async function startProcess(settings: ProcessSettings): Promise<{ readonly child: ChildProcess; readonly port: number }> {
  const child = fork(join(import.meta.dirname, 'balancer/process.ts'), [JSON.stringify(settings)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] })
  const port = await new Promise<number>((resolve, reject) => {
    child.once('message', (message) => resolve((message as { readonly port: number }).port))
    child.once('exit', (code) => reject(new Error(`a process of the service ended with ${code ?? 'a signal'}`)))
  })
  return { child, port }
}

/** Processes of Therapy over one database behind a balancer that hands out connections in turn, as one of TCP does. */
export async function startFleet(settings: ProcessSettings, many: number): Promise<Fleet> {
  const processes = await Promise.all(Array.from({ length: many }, () => startProcess(settings)))
  let turn = 0
  const balancer = createServer((front) => {
    const back = connect(processes[turn++ % many]?.port ?? 0, '127.0.0.1')
    for (const [one, other] of [[front, back], [back, front]] as const) one.on('error', () => other.destroy()).on('close', () => other.destroy())
    front.setNoDelay(true).pipe(back.setNoDelay(true)).pipe(front)
  })
  await new Promise<void>((resolve) => balancer.listen(0, '127.0.0.1', resolve))
  return {
    port: (balancer.address() as AddressInfo).port,
    tell: () => Promise.all(processes.map(({ child }) => new Promise<Told>((resolve) => {
      child.once('message', (told) => resolve(told as Told))
      child.send('tell')
    }))),
    async stop() {
      balancer.close()
      await Promise.all(processes.map(({ child }) => new Promise((resolve) => {
        child.once('exit', resolve)
        child.disconnect()
      })))
    },
  }
}
