import { connect, createServer, type Socket } from 'node:net'

/**
 * A process of its own that passes bytes on after a delay in each direction: a database in the next building.
 * Arguments: target port, delay in milliseconds. Prints its port.
 */
const [target, delay] = process.argv.slice(2).map(Number)
if (target === undefined || delay === undefined) throw new TypeError('delay-proxy: give the target port and the delay in milliseconds')

function pass(from: Socket, to: Socket): void {
  // One timer per chunk keeps the order: timers of one duration fire in the order they were set.
  from.on('data', (chunk) => {
    setTimeout(() => to.write(chunk), delay)
  })
  from.on('close', () => {
    setTimeout(() => to.destroy(), delay)
  })
  from.on('error', () => to.destroy())
}

const server = createServer({ noDelay: true }, (near) => {
  const far = connect({ port: target, host: '127.0.0.1', noDelay: true })
  pass(near, far)
  pass(far, near)
})
server.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') process.stdout.write(`${address.port}\n`)
})
process.on('disconnect', () => process.exit(0))
