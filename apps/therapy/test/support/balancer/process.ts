import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { AddressInfo } from 'node:net'
import { openService } from '../../../src/service.ts'
import type { ProcessSettings, Told } from '../balancer.ts'

/** One process of the service; it ends when the one that started it lets go. */
const settings = JSON.parse(process.argv[2] ?? '{}') as ProcessSettings
const events: Record<string, number> = {}
const service = await openService({ ...settings, emit: ({ type }) => void (events[type] = (events[type] ?? 0) + 1) })
const delay = monitorEventLoopDelay({ resolution: 5 })
delay.enable()
await new Promise<void>((resolve) => service.server.listen(0, '127.0.0.1', resolve))
process.on('message', () => {
  const told: Told = { events, lag: delay.max / 1e6 }
  delay.reset()
  process.send?.(told)
})
process.once('disconnect', () => {
  service.server.closeAllConnections()
  service.server.close(() => void service.close().finally(() => process.exit(0)))
})
process.send?.({ port: (service.server.address() as AddressInfo).port })
