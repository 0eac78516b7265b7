import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { UsageProblem } from 'redoubt/cli/io'
import { startSmtp } from '../../../packages/redoubt/test/support/smtp.ts'
import { workOf } from '../src/commands.ts'
import { helpAsked } from '../src/process.ts'

type Said = { readonly code: number; readonly out: string; readonly err: string }

const folder = await mkdtemp(join(tmpdir(), 'therapy-cli-'))
after(() => rm(folder, { recursive: true, force: true }))

/** What a terminal shows of one command; nothing of this machine's settings but the path to programs. */
function therapy(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Said> {
  return new Promise((resolve) => {
    execFile(process.execPath, [join(import.meta.dirname, '../src/cli.ts'), ...args], { env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'], REDOUBT_HOME: folder, ...env } }, (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code), out, err }))
  })
}

test('a command that is none is refused in one line, which says where the help is; without a word it is the help', async () => {
  const nothing = await therapy([])
  assert.deepEqual([nothing.code, nothing.out], [2, ''])
  assert.match(nothing.err, /^npm run therapy -- <command>\n[\s\S]*send-test-mail <e-mail>/)
  for (const [why, ...words] of [
    ['there is no command create-root', 'create-root', 'a@example.org'], ['create-admin takes one e-mail address', 'create-admin'], ['create-admin takes one e-mail address', 'create-admin', 'ada'],
    ['create-admin takes one e-mail address', 'create-admin', 'a@example.org', '--new'], ['recover-admin takes one e-mail address', 'recover-admin'], ['recover-admin takes one e-mail address', 'recover-admin', 'ada'],
    ['recover-admin takes one e-mail address', 'recover-admin', 'a@example.org', 'b@example.org'], ['recover-admin takes one e-mail address', 'recover-admin', '--new-password', 'a@example.org'], ['api-client create: there is no scope notes:read; there is therapists:read', 'api-client', 'create', 'Directory', 'notes:read'],
  ]) {
    // A process for each would take minutes on a busy machine.
    assert.throws(() => workOf(words), (error) => error instanceof UsageProblem && error.message === why)
  }
  const wrong = await therapy(['create-root'])
  assert.deepEqual([wrong.code, wrong.out, wrong.err], [2, '', 'therapy: there is no command create-root; npm run therapy -- help tells how commands are given\n'])
})

test('the help is found by any of its words', async () => {
  for (const words of [['help'], ['--help'], ['-h'], ['create-admin', '-h']]) assert.ok(helpAsked(words), words.join(' '))
  assert.ok(!helpAsked(['create-admin', 'help']))
  const { code, out, err } = await therapy(['--help'])
  assert.deepEqual([code, err, out.startsWith('npm run therapy -- <command>')], [0, '', true])
})

test('a test message goes through the server that MAIL names, or into its folder, and the command says which', async () => {
  const server = await startSmtp()
  after(() => server.close())
  const ca = join(folder, 'ca.pem')
  await writeFile(ca, server.ca)
  const env = { NODE_ENV: 'production', DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', MAIL: `smtps://localhost:1`, MAIL_FROM: 'no-reply@therapy.test', NODE_EXTRA_CA_CERTS: ca }
  const sent = await therapy(['send-test-mail', 'ada@example.org'], { ...env, MAIL: `smtp://localhost:${server.port}` })
  assert.deepEqual([sent.code, sent.err], [0, ''])
  assert.match(sent.out, /^the mail server took message [0-9a-f-]{36};/)
  assert.deepEqual(server.received.map(({ from, to, secure }) => [from, to, secure]), [['no-reply@therapy.test', ['ada@example.org'], true]])

  // What a login shell calls MAIL is a mailbox of this machine.
  const written = await therapy(['send-test-mail', 'ada@example.org'], { MAIL: '/var/mail/somebody' })
  assert.equal(written.code, 0, written.err)
  assert.match(written.out, /^written to .*mail, the file that ends in [0-9a-f-]{36}\.eml; MAIL names a folder, so nothing leaves this machine\n$/)
  const [name = ''] = await readdir(join(folder, 'mail'))
  assert.match(await readFile(join(folder, 'mail', name), 'utf8'), /To: <ada@example\.org>/)
})

test('what keeps a test message from going out is told, without the address', async () => {
  const server = await startSmtp()
  after(() => server.close())
  const ca = join(folder, 'own.pem')
  await writeFile(ca, server.ca)
  const env = { NODE_ENV: 'production', DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none', MAIL: `smtp://localhost:${server.port}`, MAIL_FROM: 'no-reply@therapy.test', NODE_EXTRA_CA_CERTS: ca }
  const refused = async (why: RegExp, code: number, more: NodeJS.ProcessEnv = {}): Promise<void> => {
    const said = await therapy(['send-test-mail', 'ada@example.org'], { ...env, ...more })
    assert.deepEqual([said.code, said.out], [code, ''], said.err)
    assert.match(said.err, why)
    assert.ok(!said.err.includes('ada'), said.err)
  }
  server.refuse('550 5.1.1 no such mailbox ada@example.org')
  await refused(/^therapy send-test-mail: nothing was sent: mail_refused: .*: it answered 550\n$/, 1)
  await refused(/mail_unavailable: .*: nobody listens at this host and port\n$/, 1, { MAIL: 'smtp://localhost:1' })
  await refused(/mail_unavailable: .*: there is no TLS connection to the mail server\n$/, 1, { NODE_EXTRA_CA_CERTS: undefined })
  await refused(/MAIL/, 2, { MAIL: 'file:/tmp/mail' })
  await refused(/MAIL/, 2, { MAIL: undefined })
})
