import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import pg from 'pg'
import { removeEmbedded, startEmbedded } from '../src/cli/embedded.ts'
import { commandOf } from '../src/cli/embedded/process.ts'
import { Refusal } from '../src/errors.ts'

const root = process.getuid?.() === 0
const posix = process.platform !== 'win32'
const folder = await mkdtemp(join(tmpdir(), 'redoubt-embedded-'))
const start = (more: { readonly port?: number; readonly insecureNoFsync?: boolean } = {}) =>
  startEmbedded({ folder, insecureNoFsync: true, ...more })

after(async () => {
  // A failed test has not left: without this its server would outlive us.
  await rm(join(folder, 'users'), { recursive: true, force: true })
  await removeEmbedded(folder)
})

async function ask<T extends pg.QueryResultRow>(url: string, sql: string): Promise<readonly T[]> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  try {
    return (await client.query<T>(sql)).rows
  } finally {
    await client.end()
  }
}

async function postmaster(): Promise<number> {
  return Number((await readFile(join(folder, 'data', 'postmaster.pid'), 'utf8')).split('\n')[0])
}

async function killAndWait(pid: number): Promise<void> {
  process.kill(pid, 'SIGKILL')
  while ((await commandOf(pid)) !== '') await delay(10)
}

/** Another process that starts the server of a folder, says its port and stays. */
async function startElsewhere(where: string, identity: { readonly uid?: number; readonly gid?: number } = {}): Promise<{ readonly child: ChildProcess; readonly port: number }> {
  const module = new URL('../src/cli/embedded.ts', import.meta.url).href
  const script = `const { startEmbedded } = await import(${JSON.stringify(module)})
    const server = await startEmbedded({ folder: ${JSON.stringify(where)}, insecureNoFsync: true })
    process.on('SIGTERM', () => server.stop().then(() => process.exit(0)))
    console.log(server.port); setInterval(() => {}, 1e6)`
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: ['ignore', 'pipe', 'inherit'], ...identity })
  const [line] = (await Promise.race([once(child.stdout, 'data'), once(child, 'exit').then(() => ['no server'])])) as [unknown]
  const port = Number(String(line))
  assert.ok(port > 0, `the other process could not start the server: ${String(line)}`)
  return { child, port }
}

test('a fresh server takes scram passwords only, listens on loopback only, and logs no values', async () => {
  const server = await start()
  const [row] = await ask(server.adminUrl, `
    select current_setting('data_checksums') as checksums, current_setting('server_encoding') as encoding,
      d.datlocprovider::text as provider, d.datlocale as locale, current_setting('timezone') as zone,
      current_setting('listen_addresses') as addresses, current_setting('unix_socket_directories') as sockets,
      current_setting('log_parameter_max_length') as parameters, current_setting('log_parameter_max_length_on_error') as on_error,
      (select string_agg(distinct auth_method, ',') from pg_hba_file_rules) as auth,
      (select rolpassword like 'SCRAM-SHA-256$%' from pg_authid where rolname = 'postgres') as scram
    from pg_database d where datname = 'postgres'`)
  assert.deepEqual(row, {
    checksums: 'on', encoding: 'UTF8', provider: 'b', locale: 'C.UTF-8', zone: 'UTC', addresses: '127.0.0.1', sockets: '',
    parameters: '0', on_error: '0', auth: 'scram-sha-256', scram: true,
  })
  if (posix) assert.equal((await stat(join(folder, 'superuser-password'))).mode & 0o777, 0o600)
  const guess = new URL(server.adminUrl)
  guess.password = 'postgres'
  await assert.rejects(ask(guess.href, 'select 1'), { code: '28P01' })
  await server.stop()
  await assert.rejects(ask(server.adminUrl, 'select 1'), { code: 'ECONNREFUSED' })
})

test('a failed statement leaves neither its text nor the row it broke on in the log', async () => {
  const server = await start()
  await assert.rejects(ask(server.adminUrl, "alter role nobody_here password 'marker-of-a-password'"))
  await assert.rejects(ask(server.adminUrl, "create temp table t (v text primary key); insert into t values ('marker-of-a-row'), ('marker-of-a-row')"))
  const log = await readFile(join(folder, 'data', 'server.log'), 'utf8')
  assert.match(log, /duplicate key value/)
  assert.doesNotMatch(log, /marker-of/)
  await server.stop()
})

test('a second start uses the running server, and the last one out stops it', async () => {
  const first = await start()
  const second = await start()
  assert.deepEqual([first.adopted, second.adopted, second.port], [false, true, first.port])
  await first.stop()
  await first.stop()
  assert.equal((await ask(second.adminUrl, 'select 1 as one')).length, 1)
  await second.stop()
  await assert.rejects(ask(second.adminUrl, 'select 1'), { code: 'ECONNREFUSED' })
  const third = await start()
  assert.equal(third.port, first.port, 'the port is remembered')
  await third.stop()
})

test('starts at the same moment share one server', async () => {
  const [here, elsewhere, again] = await Promise.all([start(), startElsewhere(folder), start()])
  assert.deepEqual([elsewhere.port, again.port], [here.port, here.port])
  await Promise.all([here.stop(), again.stop()])
  assert.equal((await ask(here.adminUrl, 'select 1 as one')).length, 1)
  elsewhere.child.kill('SIGTERM')
  await once(elsewhere.child, 'exit')
  await assert.rejects(ask(here.adminUrl, 'select 1'), { code: 'ECONNREFUSED' })
})

test('a server in use is not restarted with other settings', async () => {
  const server = await start()
  await assert.rejects(start({ insecureNoFsync: false }), (error) => error instanceof Refusal && error.code === 'database_unavailable')
  await server.stop()
})

test('a server left by kill -9 of its starter is adopted with the same settings and restarted with others', async () => {
  const { child, port } = await startElsewhere(folder)
  const pid = await postmaster()
  await killAndWait(child.pid ?? 0)
  const heir = await start()
  assert.deepEqual([heir.adopted, heir.port, await postmaster()], [true, port, pid])
  const { child: second } = await startElsewhere(folder)
  await heir.stop()
  await killAndWait(second.pid ?? 0)
  const durable = await start({ insecureNoFsync: false })
  assert.equal(durable.adopted, false)
  assert.deepEqual(await ask(durable.adminUrl, 'show fsync'), [{ fsync: 'on' }])
  await durable.stop()
})

test('a server killed with kill -9 is started again and has what was committed', async () => {
  const server = await start()
  await ask(server.adminUrl, 'create table kept (v int); insert into kept values (7)')
  await killAndWait(await postmaster())
  const again = await start()
  assert.equal(again.adopted, false)
  assert.deepEqual(await ask(again.adminUrl, 'select v from kept'), [{ v: 7 }])
  await server.stop()
  await again.stop()
})

test('a stale pid file that names a foreign process neither blocks the start nor harms that process', { skip: !posix && 'kill -9 of a server is a POSIX case' }, async () => {
  const server = await start()
  await killAndWait(await postmaster())
  const pidFile = join(folder, 'data', 'postmaster.pid')
  // One of the server's own account, as far as the system allows: only such a one blocks the start.
  const foreign = spawn('sleep', ['60'], { stdio: 'ignore', ...(root ? { uid: (await stat(join(folder, 'data'))).uid } : {}) })
  await writeFile(pidFile, (await readFile(pidFile, 'utf8')).replace(/^\d+/, String(foreign.pid)))
  const again = await start()
  await again.stop()
  await server.stop()
  assert.notEqual(await commandOf(foreign.pid ?? 0), '')
  foreign.kill('SIGKILL')
})

test('a process id that was given out anew holds neither the lock nor the server', async () => {
  const server = await start()
  // As left by two users killed with kill -9 whose ids now belong to this very process, which runs another command.
  const stale = `${process.pid}\nnode of-another-day.ts`
  await writeFile(join(folder, 'users', `${process.pid}-stale`), stale)
  await writeFile(join(folder, 'lock'), stale)
  await server.stop()
  await assert.rejects(ask(server.adminUrl, 'select 1'), { code: 'ECONNREFUSED' })
})

test('a port that is asked for and taken is refused by name', async () => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  const { port } = holder.address() as { readonly port: number }
  try {
    await assert.rejects(start({ port }), (error) => error instanceof Refusal && error.detail?.includes(String(port)) === true)
  } finally {
    holder.close()
  }
})

test('a lost password file is refused, not replaced', async () => {
  const path = join(folder, 'superuser-password')
  const password = await readFile(path, 'utf8')
  await rm(path)
  await assert.rejects(start(), (error) => error instanceof Refusal && error.detail?.includes('superuser-password') === true)
  await writeFile(path, password, { mode: 0o600 })
})

test('as root in a clone that only root can enter, the server runs unprivileged in a place of its own', { skip: !root && 'not run as root' }, async () => {
  const closed = await mkdtemp(join(tmpdir(), 'redoubt-closed-'))
  const inside = join(closed, 'clone', '.redoubt')
  const server = await startEmbedded({ folder: inside, insecureNoFsync: true })
  const home = (await readFile(join(inside, 'home'), 'utf8')).trim()
  try {
    assert.ok(!home.startsWith(closed))
    const [place, data] = [await stat(home), await stat(join(home, 'data'))]
    assert.deepEqual([place.uid, place.mode & 0o777, data.mode & 0o777], [0, 0o710, 0o700])
    assert.notEqual(data.uid, 0)
    assert.equal((await ask(server.adminUrl, 'select 1 as one')).length, 1)
    await server.stop()
    const again = await startEmbedded({ folder: inside, insecureNoFsync: true })
    assert.equal(again.port, server.port)
    await assert.rejects(removeEmbedded(inside), Refusal, 'it is in use')
    await again.stop()
    await removeEmbedded(inside)
    await assert.rejects(stat(home), { code: 'ENOENT' })
  } finally {
    await rm(home, { recursive: true, force: true })
    await rm(closed, { recursive: true, force: true })
  }
})

test('an ordinary user can start one too', { skip: !root && 'every other test here shows it' }, async (t) => {
  const nobody = (await stat(join(folder, 'data'))).uid
  const readable = spawn('test', ['-r', new URL('../src/cli/embedded.ts', import.meta.url).pathname], { uid: nobody, stdio: 'ignore' })
  const [code] = (await once(readable, 'exit')) as [number]
  if (code !== 0) return t.skip('the clone cannot be read by an ordinary user')
  const own = await mkdtemp(join(tmpdir(), 'redoubt-ordinary-'))
  await chown(own, nobody, nobody)
  try {
    const { child } = await startElsewhere(join(own, 'clone', 'db'), { uid: nobody, gid: nobody })
    assert.equal((await stat(join(own, 'clone', 'db', 'data'))).uid, nobody)
    child.kill('SIGTERM')
    await once(child, 'exit')
  } finally {
    await rm(own, { recursive: true, force: true })
  }
})
