import type { AddressInfo } from 'node:net'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { openService } from '../../apps/therapy/src/service.ts'
import { benchService } from '../database.ts'

/**
 * Therapy in a process of its own, so that the burst's sender does not stand in its event loop. Tells when asked how late
 * the loop was: a timer of a millisecond is awaited again and again, and what it took beyond that millisecond is the delay.
 */
const period = 1
const { app, keys, kms } = JSON.parse(process.argv[2] ?? '{}') as Readonly<Record<string, string>>
const service = await openService({
  databaseUrl: app ?? '', keysUrl: keys ?? '', kms: kms ?? '', roles: benchService, production: false,
  publicOrigin: 'http://127.0.0.1:4310', controls: { limits: 'off' }, passwords: { queue: 32 }, emit: () => undefined,
})
const delay = monitorEventLoopDelay({ resolution: period })
process.on('message', (word) => {
  if (word === 'begin') {
    delay.reset()
    delay.enable()
    process.send?.({ begun: true })
  } else {
    delay.disable()
    process.send?.({ delay: Math.max(0, delay.percentile(99) / 1e6 - period) })
  }
})
process.on('disconnect', () => process.exit(0))
service.server.listen(0, '127.0.0.1', () => process.send?.({ port: (service.server.address() as AddressInfo).port }))
