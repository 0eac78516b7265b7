import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { chmod, readFile, rename } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePort } from '../../../packages/redoubt/test/support/port.ts'
import { operatorOf } from './support/operator.ts'
import { accountsOf, openStarts, ready, startFile, until, type Running } from './support/starts.ts'

const { home, port, start, login } = await openStarts()

async function postmaster(): Promise<number> {
  return Number((await readFile(join(home, 'postgres/data/postmaster.pid'), 'utf8')).split('\n')[0])
}

async function stop(running: Running): Promise<void> {
  running.child.kill('SIGINT')
  assert.equal(await running.ended, 0, running.output())
}

/** A second worker beside the running service, whose clock is a minute ahead. */
async function lateWorker(): Promise<{ readonly code: unknown; readonly said: string }> {
  const ahead = "data:text/javascript,const now=Date.now;Date.now=()=>now()+60000"
  return new Promise((resolve) => {
    // As the runbook has it: what the name of the folder has in it, the shell must read as it stands.
    execFile('/bin/sh', ['-c', 'set -a; . "$0"; exec "$@"', join(home, 'therapy.env'), process.execPath, '--import', ahead, join(import.meta.dirname, '../src/worker.ts')], { env: {}, cwd: join(import.meta.dirname, '../../..'), timeout: 30_000 }, (error, _, said) => {
      resolve({ code: error === null ? 0 : error.code, said })
    })
  })
}

const answers = (): Promise<boolean> => fetch(`http://127.0.0.1:${port}/health/live`).then(({ ok }) => ok, () => false)

test('npm start with a PORT that is none says so in one line', async () => {
  for (const PORT of ['abc', '70000', '0']) {
    const running = start([], { env: { PORT } })
    assert.equal(await running.ended, 2)
    assert.equal(running.output(), 'npm start: PORT must be a whole number from 1 to 65535\n')
  }
})

test('npm start tells its help by any of its words, the exit codes in words', async () => {
  for (const word of ['--help', '-h', 'help']) {
    const running = start([word])
    assert.equal(await running.ended, 0, running.output())
    assert.match(running.output(), /^Exit codes: 0 stopped as asked, 1 failed, 2 refused \(starting again changes nothing\), 3 port taken$/m)
  }
  const running = start(['--rest'])
  assert.equal(await running.ended, 2)
})

test('npm start with connection strings that are none names each, without its value, before it asks for more', async () => {
  const running = start([], { env: { DATABASE_URL: 'rubbish-1', KEYS_DATABASE_URL: 'postgresql://127.0.0.1' } })
  assert.equal(await running.ended, 2)
  assert.equal(running.output(), 'npm start: DATABASE_URL is not a connection string: postgresql://user:password@host/database\nKEYS_DATABASE_URL is not a connection string: postgresql://user:password@host/database\n')
})

test('npm start when something goes wrong', async (t) => {
  await t.test('Ctrl-C while it prepares leaves no PostgreSQL behind', async () => {
    const running = start()
    await until('the server runs', () => running.output().includes('postgresql 127.0.0.1'), running)
    await stop(running)
    assert.equal(existsSync(join(home, 'postgres/data/postmaster.pid')), false)
    assert.doesNotMatch(running.output(), /\n {4}at /)
    const early = await operatorOf(home).therapy('create-admin', 'early@example.org')
    assert.deepEqual([early.code, early.out], [2, ''], early.err)
    assert.match(early.err, /^therapy: no npm start was ever complete in .*: run npm start first/, 'accounts made now would keep the demonstration away')
  })

  let people: readonly (readonly string[])[] = []
  await t.test('two starts at the same moment, from nothing: one serves, the other says that the port is taken', async () => {
    const both = [start(), start()]
    const first = await Promise.race(both.map(({ ended }, index) => ended.then((code) => ({ code, index }))))
    const [loser, winner] = first.index === 0 ? both : both.toReversed()
    assert.ok(loser !== undefined && winner !== undefined)
    assert.equal(first.code, 3, loser.output())
    assert.match(loser.output(), new RegExp(`port ${port} is used by another process; stop that one, or set PORT$`, 'm'))
    await ready(winner)
    people = accountsOf(winner)
    assert.equal(people.length, 8)

    const reset = start(['--reset'], { env: { PORT: String(await freePort()) } })
    assert.equal(await reset.ended, 2, reset.output())
    assert.match(reset.output(), /another npm start uses the data/)
    assert.ok(await login(people[0]?.[0] ?? '', people[0]?.[1] ?? ''), 'the first one serves on, with its data')

    process.kill(await postmaster(), 'SIGKILL')
    assert.equal(await winner.ended, 1, 'without its database it ends, and says so')
    assert.match(winner.output(), /PostgreSQL ended; npm start continues with the same data/)
  })

  await t.test('after kill -9 of PostgreSQL the next start goes on with the same data', async () => {
    const running = start([], { env: { KMS: 'rubbish', NODE_ENV: 'production', MAIL: '/var/mail/somebody' } })
    await ready(running)
    assert.match(running.output(), /^not taken here: NODE_ENV, KMS\. npm start is for development and sets its own; docs.runbooks.start\.md /m)
    assert.doesNotMatch(running.output(), /rubbish/)
    assert.deepEqual(accountsOf(running), people)
    assert.ok(await login(people[0]?.[0] ?? '', people[0]?.[1] ?? ''))

    const late = await lateWorker()
    assert.equal(late.code, 2, 'a worker whose clock is wrong refuses, and its process ends: nothing it had begun goes on')
    assert.match(late.said, /^therapy worker: caller_refused: .*clocks/m)
    await stop(running)
  })

  await t.test('a service that refuses to start: its reason stands on the terminal, the exit code is 2', async () => {
    const root = join(home, 'keys/root.key')
    for (const [spoil, mend, reason] of [
      [() => chmod(root, 0o644), () => chmod(root, 0o600), /^npm start: therapy( worker)?: key_refused: .*chmod 600/m],
      [() => rename(root, `${root}.away`), () => rename(`${root}.away`, root), /^npm start: therapy( worker)?: key_refused: .*root key/m],
    ] as const) {
      await spoil()
      const running = start()
      const code = await running.ended
      await mend()
      assert.equal(code, 2, running.output())
      assert.match(running.output(), reason)
      assert.doesNotMatch(running.output(), /\n {4}at /)
    }
  })

  await t.test('the shell that npm puts in between is ended: what it started ends too', { skip: process.platform === 'win32' && 'no such shell' }, async () => {
    const running = start([], { command: ['/bin/sh', '-c', `"${process.execPath}" "${startFile}"; exit $?`], env: { npm_lifecycle_event: 'start' } })
    await ready(running)
    running.child.kill('SIGTERM')
    await running.ended
    await until('the port is free', async () => !(await answers()))
    await until('PostgreSQL has stopped', () => !existsSync(join(home, 'postgres/data/postmaster.pid')))
  })
})
