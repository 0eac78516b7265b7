import assert from 'node:assert/strict'
import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { after, test } from 'node:test'
import { systemCaller } from '../../src/context.ts'
import { Refusal } from '../../src/errors.ts'
import { openPool } from '../../src/pg.ts'
import { transaction, type Gate } from '../../src/transaction.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate, type testActions } from '../support/gate.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const opened = await openTestGate(database)
const caller = systemCaller('test', database.service, { requestId: 'silence', address: null })

/** A way to the server that can stop answering, with every connection open and new ones still taken. */
const sockets = new Set<Socket>()
let silent = false
const server = new URL(database.url('app'))
const way = createServer((socket) => {
  const to = connect(Number(server.port), server.hostname)
  for (const each of [socket, to]) {
    sockets.add(each)
    each.on('error', () => undefined).on('close', () => {
      socket.destroy()
      to.destroy()
    })
  }
  socket.on('data', (bytes) => void (silent || to.write(bytes)))
  to.on('data', (bytes) => void (silent || socket.write(bytes)))
})
await new Promise<void>((resolve) => way.listen(0, '127.0.0.1', resolve))
const url = new URL(server)
url.host = `127.0.0.1:${(way.address() as AddressInfo).port}`
after(async () => {
  way.close()
  await opened.close()
})

const look = { name: 'look', text: 'select id from redoubt.users where id = $1', values: ['0190a8f0-0000-7000-8000-0000000000ff'] } as const
const calls: readonly (readonly [what: string, call: (gate: Gate<typeof testActions>) => Promise<unknown>])[] = [
  ['a call', (gate) => transaction(gate, caller, 'test.write', (tx) => tx.query(look))],
  ['a single statement', (gate) => transaction.one(gate, caller, 'test.read', look)],
  ['a look-up that shares its connection', (gate) => transaction.one(gate, caller, 'test.read', { ...look, brief: 'reads' })],
]
/** Milliseconds to wait for a connection: whoever asks for another one while nobody answers is far behind whoever does not. */
const connectTimeout = 120_000

for (const [what, call] of calls) {
  test(`${what} on a database that takes connections and answers nothing waits once, and ends as one without its entry`, async () => {
    silent = false
    const pool = openPool({ url: url.href, max: 2, statementTimeout: 2_000, connectTimeout, emit: () => undefined })
    const gate: Gate<typeof testActions> = { ...opened.gate, pool }
    try {
      await call(gate)
      silent = true
      const since = performance.now()
      await assert.rejects(call(gate), (error) => error instanceof Refusal && error.code === 'audit_unavailable')
      assert.ok(performance.now() - since < connectTimeout / 2, 'nobody waited for another connection')
    } finally {
      for (const socket of sockets) socket.destroy()
      await pool.close()
    }
  })
}
