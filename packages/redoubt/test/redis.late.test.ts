import assert from 'node:assert/strict'
import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { after, test } from 'node:test'
import { connectRedis, type Connection } from '../src/redis/connection.ts'
import { redisAbsent, startRedis, type RedisServer } from './support/redis.ts'

const skip = redisAbsent
let server: RedisServer
if (skip === false) {
  server = await startRedis()
  after(() => server.remove())
}

async function open(url: string): Promise<Connection> {
  const connection = await connectRedis({ url, name: 'sample', timeout: 5_000, lost: () => undefined })
  after(() => connection.end())
  return connection
}

const say = (word: string): readonly string[] => ['EVAL', 'return ARGV[1]', '0', word]

test('words are asked for at the end of the turn and go out in it, in the order in which they were asked for', { skip }, async () => {
  const connection = await open(server.url)
  const words = ['first']
  const seen: string[] = []
  const late = connection.sendLate(() => {
    seen.push('made')
    return say(words.join(' '))
  })
  const plain = connection.send(say('plain'))
  words.push('second')
  await Promise.resolve()
  words.push('third')
  process.nextTick(() => words.push('fourth'))
  setImmediate(() => seen.push('next'))
  assert.deepEqual(seen, [])
  assert.deepEqual(await Promise.all([late, plain]), ['first second third fourth', 'plain'])
  assert.deepEqual(seen, ['made', 'next'])
})

test('attack: a Redis that stops reading does not make a command go out before its words, nor an answer reach somebody else', { skip }, async () => {
  // A proxy that reads when it is told. Once the socket takes no more, the driver writes when it drains, not at the end of a turn.
  let near: Socket | undefined
  const proxy = createServer((socket) => {
    near = socket
    const far = connect(server.port, '127.0.0.1')
    for (const each of [socket, far]) each.on('error', () => undefined)
    far.pipe(socket)
    socket.on('data', (data) => far.write(data))
    socket.on('close', () => far.destroy())
  })
  await new Promise<void>((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  after(() => proxy.close())
  const port = (proxy.address() as AddressInfo).port
  const drained: { do: () => void } = { do: () => undefined }
  const made = (message: unknown): void => {
    const { socket } = message as { readonly socket: Socket }
    // A tick later the driver has noticed too.
    socket.on('drain', () => process.nextTick(() => drained.do()))
  }
  subscribe('net.client.socket', made)
  const connection = await open(`redis://127.0.0.1:${port}`)
  unsubscribe('net.client.socket', made)
  assert.ok(near !== undefined)

  const early = async (): Promise<number> => Number(/cmdstat_eval:calls=(\d+)/.exec(String(await server.command('INFO', 'commandstats')))?.[1] ?? 0)
  const before = await early()
  let sent = 0
  const answers: Promise<void>[] = []
  drained.do = () => {
    const word = `word ${sent++}`
    answers.push(connection.sendLate(() => ['ECHO', word]).then((reply) => assert.equal(reply, word)))
  }
  const big = 'x'.repeat(4_000_000)
  for (let round = 0; round < 5; round++) {
    near.pause()
    const filled = [1, 2, 3].map((nr) => connection.send(['ECHO', `${nr} ${big}`]))
    await new Promise((resolve) => setImmediate(() => setImmediate(resolve)))
    near.resume()
    for (const [at, reply] of (await Promise.all(filled)).entries()) assert.ok(String(reply).startsWith(`${at + 1} x`))
  }
  await Promise.all(answers)
  assert.ok((await early()) > before, 'none was written early: nothing was shown')
})
