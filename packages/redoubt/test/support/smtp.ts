import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { TLSSocket, createSecureContext } from 'node:tls'
import { selfSigned } from './certificate.ts'

export type Received = { readonly from: string; readonly to: readonly string[]; readonly data: string; readonly secure: boolean; readonly user: string | undefined }

export type SmtpServer = {
  readonly port: number
  /** PEM to trust it by. */
  readonly ca: string
  readonly received: Received[]
  /** Lines of commands as they came, over all connections. */
  readonly commands: string[]
  /** Answers the end of a message with this instead, so many times; `hang` answers nothing. */
  refuse(answer: string, times?: number): void
  /** Takes the message and drops the connection before the answer, so many times. */
  loseAnswer(times: number): void
  close(): Promise<void>
}

/**
 * A mail server as small as can be: EHLO, STARTTLS, AUTH PLAIN, MAIL, RCPT, DATA (RFC 5321, RFC 3207, RFC 4954). What
 * it is told arrives over real sockets and real TLS.
 * @param options.startTls false: does not offer it
 */
export async function startSmtp(options: { readonly startTls?: boolean } = {}): Promise<SmtpServer> {
  const { key, cert } = selfSigned()
  const context = createSecureContext({ key, cert })
  const received: Received[] = []
  const commands: string[] = []
  const sockets = new Set<Socket>()
  let refusals = { answer: '', times: 0 }
  let losses = 0

  function talk(plain: Socket): void {
    sockets.add(plain)
    plain.on('close', () => sockets.delete(plain)).on('error', () => undefined)
    let socket: Socket = plain
    let buffer = ''
    let data: string[] | undefined
    let from = ''
    let to: string[] = []
    let user: string | undefined
    const say = (line: string): void => void socket.write(`${line}\r\n`)
    const listen = (): void => {
      socket.setEncoding('utf8')
      socket.on('error', () => undefined)
      socket.on('data', (chunk: string) => {
        buffer += chunk
        for (let at = buffer.indexOf('\r\n'); at >= 0; at = buffer.indexOf('\r\n')) {
          const line = buffer.slice(0, at)
          buffer = buffer.slice(at + 2)
          handle(line)
        }
      })
    }
    const finish = (text: string): void => {
      received.push({ from, to, data: text, secure: socket !== plain, user })
      if (losses > 0) {
        losses--
        plain.destroy()
      } else if (refusals.times > 0) {
        refusals.times--
        received.pop()
        if (refusals.answer !== 'hang') say(refusals.answer)
      } else say('250 2.0.0 accepted')
    }
    const handle = (line: string): void => {
      if (data !== undefined) {
        if (line !== '.') return void data.push(line.startsWith('.') ? line.slice(1) : line)
        const text = data.join('\r\n')
        data = undefined
        return finish(text)
      }
      commands.push(line)
      const word = line.slice(0, 4).toUpperCase()
      if (word === 'EHLO') say(`250-test\r\n${socket === plain && options.startTls !== false ? '250-STARTTLS\r\n' : ''}250-AUTH PLAIN\r\n250 8BITMIME`)
      else if (word === 'STAR' && options.startTls !== false) {
        say('220 go')
        plain.removeAllListeners('data')
        socket = new TLSSocket(plain, { isServer: true, secureContext: context })
        listen()
      } else if (word === 'AUTH') {
        user = Buffer.from(line.split(' ')[2] ?? '', 'base64').toString().split('\0')[1]
        say('235 ok')
      } else if (word === 'MAIL') {
        from = /<(.*?)>/.exec(line)?.[1] ?? ''
        to = []
        say('250 ok')
      } else if (word === 'RCPT') {
        to.push(/<(.*?)>/.exec(line)?.[1] ?? '')
        say('250 ok')
      } else if (word === 'DATA') {
        data = []
        say('354 go')
      } else if (word === 'QUIT') {
        say('221 bye')
        socket.end()
      } else say(word === 'RSET' || word === 'NOOP' ? '250 ok' : '502 no')
    }
    listen()
    say('220 test ESMTP')
  }

  const server: Server = createServer(talk)
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    port: (server.address() as AddressInfo).port, ca: cert, received, commands,
    refuse: (answer, times = 1) => {
      refusals = { answer, times }
    },
    loseAnswer: (times) => {
      losses = times
    },
    async close() {
      for (const socket of sockets) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
