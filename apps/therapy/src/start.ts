import { fork, type ChildProcess } from 'node:child_process'
import { open } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { alone } from 'redoubt/cli/embedded/users'
import { rolesSql } from 'redoubt/cli/roles'
import { databaseUrl } from 'redoubt/config'
import { Refusal } from 'redoubt/errors'
import type { Event } from 'redoubt/events'
import { migrate } from 'redoubt/migrate'
import type { Settings } from './config.ts'
import { demoAccounts, playDemo, type DemoAccount } from './demo.ts'
import { demoPathIn, readDemoFile, writeDemoFile } from './demo-file.ts'
import { openDevelopment, placesIn, type Development } from './development.ts'
import { complain, exitCodes, exitCodesInWords, forgetMailbox, helpAsked, onStop, run, say, settingsFrom, StartRefused } from './process.ts'
import { checkRoom, homeFrom, inHome } from './home.ts'
import { onOrphaned } from './orphan.ts'
import { openService, serviceSettings } from './service.ts'
import { repository, sources } from './sources.ts'

const help = `npm start: PostgreSQL, migrations, demo data, Therapy and its worker, until Ctrl-C

  npm start                 continues with the data of the last time
  npm start -- --reset      removes database, keys and demo accounts first
  PORT=8080 npm start       another port than 4310
  DATABASE_URL=… npm start  another server than the embedded one; then DATABASE_OWNER_URL, KEYS_DATABASE_URL and
                            WORKER_DATABASE_URL are needed too, and demo people come only with DEMO_DATA=true

${exitCodesInWords}`

/** REDOUBT_HOME: another folder than .redoubt, for a second instance beside the first. */
const home = homeFrom(process.env)
const demoPath = demoPathIn(home)
/** Each role has a login of its own. */
const ownLogins = ['DATABASE_URL', 'DATABASE_OWNER_URL', 'KEYS_DATABASE_URL', 'WORKER_DATABASE_URL'] as const
const logPath = join(home, 'therapy.log')

run('npm start', async () => {
  const words = process.argv.slice(2)
  if (helpAsked(words)) return say(help)
  const unknown = words.find((word) => word !== '--reset')
  if (unknown !== undefined) {
    complain(`npm start: ${unknown} is not an option; npm start -- --help tells what is`)
    process.exitCode = exitCodes.refused
    return
  }
  forgetMailbox()
  const port = portFrom(process.env['PORT'])
  checkUrls()
  process.chdir(repository)
  const children: ChildProcess[] = []
  let development: Development | undefined
  let asked = false
  let ending: Promise<void> | undefined
  const end = (): Promise<void> => (ending ??= stopAll(children, development))

  async function begin(): Promise<void> {
    await checkPort(port)
    if (asked) return
    development = process.env['DATABASE_URL'] === undefined ? await embedded() : await external()
    if (asked) return
    tellIgnored(development.env)
    const adminPort = await freeAfter(port)
    // By name: browsers keep passkeys for localhost, and not for an address in numbers.
    const doors = { PORT: String(port), PUBLIC_ORIGIN: `http://localhost:${port}`, ADMIN_PORT: String(adminPort), ADMIN_ORIGIN: `http://localhost:${adminPort}` }
    const env: NodeJS.ProcessEnv = { ...doors, ...process.env, ...development.env }
    const accounts = await demo(env, development.populated)
    if (asked) return
    const log = await open(logPath, 'a', 0o600)
    children.push(spawn('server.ts', env, log.fd), spawn('worker.ts', env, log.fd))
    await Promise.all(children.map(ready))
    await log.close()
    if (!asked) guide(settingsFrom(env), accounts)
  }

  // Two starts at one moment would both make the database, and both load the demonstration.
  const beginning = inHome(home, () => alone(home, begin))
  onStop(async () => {
    asked = true
    say('\nstopping …')
    // What is half made is finished first: a server that has just been started could not be stopped yet.
    await beginning.catch(() => undefined)
    await end()
    process.exit(exitCodes.stopped)
  }, onOrphaned)
  try {
    await beginning
  } catch (error) {
    await end()
    // Ctrl-C reaches initdb and the children too; that they ended is then no failure.
    if (asked) return
    throw error
  }
  const fail = (why: string): void => {
    if (asked || ending !== undefined) return
    complain(why)
    void end().then(() => process.exit(exitCodes.failed))
  }
  // None is of use without the others: a service whose trail nobody seals must not go on for days unseen.
  for (const child of children) child.once('exit', () => fail(`a process of the service ended; ${logPath} tells why`))
  development?.onGone(() => fail('PostgreSQL ended; npm start continues with the same data'))
})

/** 0 is no port here: the address is told and signed into tokens before anybody listens. @throws StartRefused naming PORT */
function portFrom(text: string | undefined): number {
  if (text === undefined || text === '') return 4310
  if (!/^[1-9]\d{0,4}$/.test(text) || Number(text) > 65_535) throw new StartRefused('PORT must be a whole number from 1 to 65535')
  return Number(text)
}

/** Before anything is asked of a database, and never with a value. @throws StartRefused naming each setting that is no connection string */
function checkUrls(): void {
  if (process.env['DATABASE_URL'] === undefined) return
  const wrong = ownLogins.filter((name) => process.env[name] !== undefined && !databaseUrl().schema.safeParse(process.env[name]).success)
  if (wrong.length > 0) throw new StartRefused(wrong.map((name) => `${name} is not a connection string: postgresql://user:password@host/database`).join('\n'))
}

/**
 * A server whose start was killed frees its port within moments, so a taken one is looked at for a while.
 * @throws an error with code EADDRINUSE before anything was started
 */
async function checkPort(port: number): Promise<void> {
  for (const until = Date.now() + 5_000; ; await delay(250)) {
    const taken = await probe(port)
    if (taken === undefined) return
    if (taken.code !== 'EADDRINUSE' || Date.now() > until) throw taken
  }
}

/** Why nobody can listen there now, or undefined. */
function probe(port: number): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    const server = createServer().once('error', resolve).listen(port, '127.0.0.1', () => server.close(() => resolve(undefined)))
  })
}

/** Tells what is going on while somebody waits; the processes of the service write to the log. */
function tell(event: Event): void {
  if (event.type === 'service.started') say(`${event.service} ${event.detail ?? ''}`)
  if (event.type === 'migration.applied') say(`applied ${event.version}`)
}

/** Whoever sets what a development start sets itself would believe that it holds. By name, never with a value. */
function tellIgnored(env: Development['env']): void {
  const ignored = Object.keys(env).filter((name) => (process.env[name] ?? env[name]) !== env[name])
  if (ignored.length > 0) say(`not taken here: ${ignored.join(', ')}. npm start is for development and sets its own; docs/runbooks/start.md tells how production starts`)
}

/** A port for the administration: the first free one after the service's. */
async function freeAfter(port: number): Promise<number> {
  for (let next = port + 1; next <= 65_535; next++) if ((await probe(next)) === undefined) return next
  throw new StartRefused('no port after PORT is free for the administration; set ADMIN_PORT')
}

/** A demonstration whose loading was interrupted is begun anew: half a story would look like lost data. */
async function embedded(): Promise<Development> {
  const fresh = process.argv.includes('--reset') || (await readDemoFile(home))?.state === 'begun'
  await checkRoom(home)
  return openDevelopment({ home, fresh, emit: tell })
}

/** Somebody else's server: nothing is created or dropped there but what migrations make. */
async function external(): Promise<Development> {
  const missing = ownLogins.filter((name) => process.env[name] === undefined)
  if (missing.length > 0 || process.argv.includes('--reset')) {
    complain(missing.length === 0 ? 'npm start: --reset is for the embedded server only' : `npm start: with DATABASE_URL set, ${missing.join(', ')} must be set too: each role has a login of its own.\nThe roles are made by an administrator, in the service's database, with:\n\n${rolesSql('therapy')}`)
    process.exit(exitCodes.refused)
  }
  await migrate({ url: process.env['DATABASE_OWNER_URL'] ?? '', service: 'therapy', sources, emit: tell })
  const { NODE_ENV = 'development', KMS = placesIn(home).KMS, ANCHOR_DIR = placesIn(home).ANCHOR_DIR, MAIL = placesIn(home).MAIL } = process.env
  return { populated: false, env: { NODE_ENV, KMS, ANCHOR_DIR, MAIL }, onGone: () => undefined, stop: () => Promise.resolve() }
}

/** Loads the demonstration once. The accounts are written before it begins, so that an interrupted one is known. */
async function demo(env: NodeJS.ProcessEnv, populated: boolean): Promise<readonly DemoAccount[]> {
  const present = await readDemoFile(home)
  if (present?.state === 'done') return present.accounts
  const settings = settingsFrom(env)
  if (process.env['DATABASE_URL'] !== undefined && !settings.DEMO_DATA) return []
  if (present !== undefined && process.env['DATABASE_URL'] !== undefined) {
    throw new Refusal('conflict', { detail: `loading the demonstration was interrupted: give an empty database, remove ${demoPath} and start again` })
  }
  if (populated) {
    say(`The database has accounts, but ${demoPath} with their passwords is gone: npm start -- --reset begins anew.`)
    return []
  }
  const service = await openService(serviceSettings(settings, env, () => undefined))
  try {
    say('loading the demonstration …')
    const accounts = demoAccounts()
    await writeDemoFile(home, { state: 'begun', accounts })
    await playDemo(service.app, accounts, new Date())
    await writeDemoFile(home, { state: 'done', accounts })
    return accounts
  } finally {
    await service.close()
  }
}

function spawn(file: string, env: NodeJS.ProcessEnv, log: number): ChildProcess {
  return fork(join(import.meta.dirname, file), { env, cwd: repository, execArgv: [], stdio: ['ignore', log, log, 'ipc'] })
}

function ready(child: ChildProcess): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('message', (message) => {
      const { refused } = message as { readonly refused?: unknown }
      if (typeof refused === 'string') reject(new StartRefused(refused))
      else resolve()
    })
    child.once('exit', (code) => reject(new Error(`a process of the service did not start (exit code ${code ?? 0}); ${logPath} tells why`)))
  })
}

async function stopAll(children: readonly ChildProcess[], development: Development | undefined): Promise<void> {
  await Promise.all(children.map(async (child) => {
    if (child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    await gone
  }))
  await development?.stop()
}

/** What a newcomer needs next: where it is, who they can be, and three things to try. */
function guide(settings: Settings, accounts: readonly DemoAccount[]): void {
  const { PUBLIC_ORIGIN: address, ADMIN_ORIGIN: admin = '', MAIL: mail } = settings
  say(`\nTherapy          ${address}/   (in a browser, or its API: ${address}/openapi.json)`)
  say(`Administration   ${admin}/   (its API: ${admin}/openapi.json; an account: npm run therapy -- create-admin <e-mail>)`)
  say(`Mail             ${mail?.startsWith('file:') === true ? join(repository, mail.slice('file:'.length)) : 'the mail server of MAIL'}`)
  say(`Log              ${logPath}`)
  const [first] = accounts
  if (first === undefined) return
  say('\nSign in as:')
  for (const { name, role, email, password } of accounts) say(`  ${role.padEnd(10)} ${name.padEnd(20)} ${email.padEnd(32)} ${password}`)
  const login = JSON.stringify({ email: first.email, password: first.password })
  say(`\nTry:
  TOKEN=$(curl -s ${address}/api/auth/login -H 'content-type: application/json' -d '${login}' | sed 's/.*"access_token":"\\([^"]*\\)".*/\\1/')
  curl -s ${address}/api/patients -H "authorization: Bearer $TOKEN"
  curl -s "${address}/api/appointments?status=booked" -H "authorization: Bearer $TOKEN"

Ctrl-C stops everything; the data stays for the next start.`)
}
