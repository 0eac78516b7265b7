import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after } from 'node:test'
import type { Emit } from '../../src/events.ts'
import { hardenServer } from '../../src/http.ts'

/** An app on a free port of this machine, hardened as a service is, until the end of the file. */
export async function serving(app: RequestListener, emit: Emit = () => undefined): Promise<{ readonly url: string; readonly port: number; readonly server: Server }> {
  const server = createServer(app)
  hardenServer(server, emit)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, server }
}
