import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Refusal } from '../src/errors.ts'
import { openMailer, type Mail, type Mailer } from '../src/mail.ts'
import { startSmtp, type SmtpServer } from './support/smtp.ts'

const from = 'no-reply@therapy.test'
const mail = (more: Partial<Mail> = {}): Mail => ({ id: randomUUID(), to: 'ada@example.org', subject: 'Your code', text: 'Hello,\n\n12345678\n.\n', ...more })
const opened: Mailer[] = []
const servers: SmtpServer[] = []
async function smtp(options: Parameters<typeof startSmtp>[0] = {}): Promise<SmtpServer> {
  const server = await startSmtp(options)
  servers.push(server)
  return server
}
async function mailer(server: SmtpServer, more: { readonly ca?: string; readonly timeout?: number; readonly user?: string } = {}): Promise<Mailer> {
  const made = await openMailer({ url: `smtp://${more.user ?? ''}localhost:${server.port}`, from, production: true, ca: server.ca, ...more })
  opened.push(made)
  return made
}
after(async () => {
  for (const one of opened) one.close()
  for (const one of servers) await one.close()
})
const refused = (work: Promise<unknown>, code: string): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)

test('a message arrives over STARTTLS with one sender, one receiver and a Message-ID made from its row', async () => {
  const server = await smtp()
  const sender = await mailer(server, { user: 'therapy:p%40ss@' })
  const given = mail({ subject: 'Grüße', text: 'Grüße\n' })
  await sender.send(given)
  const [got] = server.received
  assert.deepEqual([got?.from, got?.to, got?.secure, got?.user], [from, ['ada@example.org'], true, 'therapy'])
  assert.ok(got?.data.includes(`Message-ID: <${given.id}@therapy.test>`) && got.data.includes('Auto-Submitted: auto-generated'), got?.data)
})

test('attack: a server that offers no TLS, or one with a certificate of its own making, gets nothing', async () => {
  const [bare, strange] = [await smtp({ startTls: false }), await smtp()]
  await refused((await mailer(bare, { user: 'therapy:secret@' })).send(mail()), 'mail_unavailable')
  await refused((await mailer(strange, { user: 'therapy:secret@', ca: (await smtp()).ca })).send(mail()), 'mail_unavailable')
  for (const { received, commands } of [bare, strange]) {
    assert.deepEqual(received, [])
    assert.ok(!commands.some((line) => /^(AUTH|MAIL|RCPT)/i.test(line)), commands.join())
  }
})

test('attack: a line break in address or subject adds no header and no command', async () => {
  const server = await smtp()
  const sender = await mailer(server)
  for (const bad of [
    { to: 'ada@example.org\r\nRCPT TO:<eve@example.org>' }, { to: 'ada@example.org, eve@example.org' }, { to: 'Ada <ada@example.org>' }, { to: 'ada@example.org\u2028x' }, { to: '' },
    { subject: 'Hi\r\nBcc: eve@example.org' }, { subject: 'Hi\nX: y' }, { subject: '' }, { text: 'a\0b' }, { text: 'a\rb' }, { id: 'x>\r\nBcc: eve@example.org' },
  ]) await assert.rejects(sender.send(mail(bad)), TypeError, JSON.stringify(bad))
  await sender.send(mail({ text: 'x\n\n.\nMAIL FROM:<eve@example.org>\n.\n' }))
  assert.equal(server.received.length, 1)
  assert.equal(server.commands.filter((line) => line.startsWith('MAIL')).length, 1)
  await assert.rejects(openMailer({ url: 'file:x', from: 'a@b\r\nBcc: c@d', production: false }), TypeError)
})

test('a refusal of the server is final for 5xx and not for 4xx, and a silent server is given up', async () => {
  const server = await smtp()
  const sender = await mailer(server, { timeout: 300 })
  server.refuse('550 5.1.1 no such mailbox ada@example.org')
  await assert.rejects(sender.send(mail()), (error) => error instanceof Refusal && error.code === 'mail_refused' && error.detail === 'it answered 550' && !JSON.stringify(error).includes('ada') && error.cause === undefined)
  server.refuse('451 4.3.0 later')
  await refused(sender.send(mail()), 'mail_unavailable')
  server.refuse('hang')
  await refused(sender.send(mail()), 'mail_unavailable')
  await sender.send(mail())
  assert.equal(server.received.length, 1)
})

test('no server is a refusal, not a crash', async () => {
  const server = await startSmtp()
  await server.close()
  await refused((await mailer(server, { timeout: 500 })).send(mail()), 'mail_unavailable')
})

test('in development a message is a file that its owner alone reads; production refuses that', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-mail-'))
  after(() => rm(folder, { recursive: true, force: true }))
  const sender = await openMailer({ url: `file:${join(folder, 'out')}`, from, production: false })
  const given = mail({ subject: 'Grüße' })
  await sender.send(given)
  sender.close()
  const [name = ''] = await readdir(join(folder, 'out'))
  assert.equal((await stat(join(folder, 'out', name))).mode & 0o777, 0o600)
  const text = await readFile(join(folder, 'out', name), 'utf8')
  assert.match(text, /^To: <ada@example\.org>\r$/m)
  assert.ok(text.includes(`<${given.id}@therapy.test>`) && text.endsWith('12345678\r\n.\r\n'))
  await assert.rejects(openMailer({ url: 'file:x', from, production: true }), /must not be file/)
  await assert.rejects(openMailer({ url: 'http://x', from, production: true }), /file:, smtp: or smtps:/)
})
