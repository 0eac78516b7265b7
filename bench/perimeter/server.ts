import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import express from 'express'
import { hardenServer } from 'redoubt/http'
import { bareNest, nestWith, usualNest } from './nest.ts'
import { ours } from './ours.ts'
import { phaseOf, soon, type Headers } from './request.ts'
import { signedIn, usual, type Keyed } from './usual.ts'

/** One server of this bench in a process of its own. Says where it listens and what its people send; when asked, its processor time, or in which phase it answers. */
const { kind, redis } = JSON.parse(process.argv[2] ?? '{}') as { readonly kind: string; readonly redis?: string }

function bare(): RequestListener {
  const app = express()
  app.post('/api/notes', express.json(), async (req, res) => {
    const { title, stars } = req.body as { readonly title: string; readonly stars: number }
    res.status(201).json(await soon({ id: 'somebody', title, stars }))
  })
  return app
}

async function made(): Promise<{ readonly listener: RequestListener; readonly headers?: readonly Headers[]; readonly keyed?: Keyed }> {
  if (kind === 'bare') return { listener: bare() }
  if (kind === 'seed') return { listener: await usual('text', redis), keyed: 'text' }
  if (kind === 'well-set') return { listener: await usual('key', redis), keyed: 'key' }
  if (kind === 'nest-bare') return { listener: await bareNest() }
  if (kind === 'nest-usual') return { listener: await usualNest(redis), keyed: 'key' }
  const { step, untouched, headers } = await ours(redis, kind === 'ours-bearer' ? 'bearer' : 'cookie')
  if (kind === 'ours-res.json') return { listener: untouched, headers }
  return { listener: kind === 'nest-ours' ? await nestWith(step) : express().use(step as express.RequestHandler), headers }
}

const { listener, headers, keyed } = await made()
const server = createServer(listener)
if (headers !== undefined) hardenServer(server, () => undefined)
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
const { port } = server.address() as AddressInfo
const people = headers ?? (keyed === undefined ? [{}] : await signedIn(`http://127.0.0.1:${port}`, keyed))
process.on('message', (asked) => {
  if (asked === 'phase') {
    server.prependOnceListener('request', (req, res) => void phaseOf(req, res).then((phase) => process.send?.(phase)))
    process.send?.('watching')
    return
  }
  const { user, system } = process.cpuUsage()
  process.send?.(user + system)
})
process.on('disconnect', () => process.exit(0))
process.send?.({ port, people })
