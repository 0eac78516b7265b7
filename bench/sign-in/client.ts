import { connect, type Socket } from 'node:net'

export type Answer = { readonly status: number; readonly retryAfter: string | undefined; readonly body: string }

/** The bytes of a request, made once: nothing of it is paid for while the server is measured. */
export function requestBytes(method: string, path: string, headers: Readonly<Record<string, string>> = {}, body = ''): Buffer {
  const all = { host: '127.0.0.1', ...headers, 'content-length': String(Buffer.byteLength(body)) }
  return Buffer.from(`${method} ${path} HTTP/1.1\r\n${Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n${body}`)
}

/** One connection that stays open. A sender of few instructions and no garbage: fetch took the cores that the server needs. */
export type Line = {
  /** Sends a request when no other is under way. @throws Error when the connection ends before the answer */
  ask(request: Buffer): Promise<Answer>
  close(): void
}

function answerOf(bytes: Buffer): Answer | undefined {
  const end = bytes.indexOf('\r\n\r\n')
  if (end < 0) return undefined
  const head = bytes.toString('latin1', 0, end)
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(head)?.[1])
  if (!Number.isInteger(length)) throw new Error(`bench: an answer without content-length: ${head}`)
  if (bytes.length < end + 4 + length) return undefined
  return { status: Number(head.slice(9, 12)), retryAfter: /\r\nretry-after: ([^\r]*)/i.exec(head)?.[1], body: bytes.toString('utf8', end + 4, end + 4 + length) }
}

export async function openLine(port: number): Promise<Line> {
  const socket = await new Promise<Socket>((resolve, reject) => {
    const opened = connect({ host: '127.0.0.1', port, noDelay: true }, () => resolve(opened)).once('error', reject)
  })
  let bytes = Buffer.alloc(0)
  let waiting: { resolve(answer: Answer): void; reject(error: unknown): void } | undefined
  socket.on('data', (chunk) => {
    bytes = bytes.length === 0 ? chunk : Buffer.concat([bytes, chunk])
    const answer = answerOf(bytes)
    if (answer === undefined) return
    bytes = Buffer.alloc(0)
    waiting?.resolve(answer)
  })
  socket.on('error', (error) => waiting?.reject(error))
  socket.on('close', () => waiting?.reject(new Error('bench: the connection ended before its answer')))
  return {
    ask: (request) => new Promise((resolve, reject) => {
      waiting = { resolve, reject }
      socket.write(request)
    }),
    close: () => socket.destroy(),
  }
}
