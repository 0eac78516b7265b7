import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { exitCodes, exitCodesInWords, helpAsked, onStop, openReports, run, say, settingsFrom } from './process.ts'
import { openService, serviceSettings } from './service.ts'

const help = `therapy server: answers over HTTP until SIGTERM or SIGINT

Settings come from the environment or from mounted files (NAME_FILE); \`npm run redoubt -- config check\` lists them.
On SIGTERM it takes no new connection, finishes what is running (10 seconds at most) and ends.
${exitCodesInWords}`

/** Milliseconds for requests that are running when the process is asked to stop. */
const patience = 10_000

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
}

run('therapy', async () => {
  if (helpAsked(process.argv.slice(2))) return say(help)
  const settings = settingsFrom(process.env)
  const { log, emit } = openReports('therapy', settings.LOG_LEVEL)
  const service = await openService(serviceSettings(settings, process.env, emit))
  const doors = service.admin === undefined ? [service.server] : [service.server, service.admin.server]
  try {
    await listen(service.server, settings.PORT, settings.HOST)
    if (service.admin !== undefined) await listen(service.admin.server, settings.ADMIN_PORT, settings.ADMIN_HOST)
  } catch (error) {
    for (const door of doors) door.close()
    await service.close()
    throw error
  }
  const { address, port } = service.server.address() as AddressInfo
  emit({ type: 'service.started', service: 'therapy', detail: `${address}:${port}` })
  process.send?.({ listening: port })

  onStop(async () => {
    emit({ type: 'service.stopping', service: 'therapy' })
    service.health.stopping()
    const late = setTimeout(() => doors.forEach((door) => door.closeAllConnections()), patience)
    await Promise.all(doors.map((door) => new Promise((resolve) => door.close(resolve))))
    clearTimeout(late)
    await service.close()
    emit({ type: 'service.stopped', service: 'therapy' })
    log.close()
    process.exit(exitCodes.stopped)
  })
})
