import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import autocannon from 'autocannon'
import { redisAbsent, startRedis } from '../packages/redoubt/test/support/redis.ts'
import { note, origin, type Headers } from './perimeter/request.ts'
import { rounds } from './rounds.ts'

/**
 * POST of a note by signed-in people, by session cookie with CSRF token and by bearer, each server in a process of its
 * own: our whole perimeter against the bare framework, the founding documents' stack, and the same stack set well. All
 * answer from setImmediate: inside the end of the body every one of them is slower, and a handler that asks a database
 * never answers there. The bare framework is Express as its documentation begins, express.json and res.json; it is sent
 * the very requests that ours is sent, since bytes of a cookie cost who parses them, whether or not they are looked at.
 * Beside requests a second stands the server's processor time per request, which a busy machine stretches less, and what
 * the controls add to bare: on a machine with few cores the client takes its part of the second, the processor time not.
 */
type Server = { readonly child: ChildProcess; readonly port: number; readonly people: readonly Headers[] }

async function start(kind: string, redis: string | undefined): Promise<Server> {
  const child = fork(join(import.meta.dirname, 'perimeter', 'server.ts'), [JSON.stringify({ kind, redis })], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  const ended = once(child, 'exit').then(([code]) => Promise.reject(new Error(`bench: the server ${kind} ended with ${String(code)}`)))
  ended.catch(() => undefined)
  const [said] = (await Promise.race([once(child, 'message'), ended])) as [Omit<Server, 'child'>]
  return { child, ...said }
}

const common = { 'content-type': 'application/json', origin, 'sec-fetch-site': 'same-origin' }

/** Who does not do the job is not compared: nobody signed in, no CSRF token, an unknown field. */
async function refuses(kind: string, { port, people }: Server): Promise<void> {
  const all = people[0] ?? {}
  const { cookie = '', 'x-csrf-token': token = '' } = all
  for (const [what, headers, body] of [
    ['nobody', { 'x-csrf-token': token }, note], ['no token', { cookie }, note], ['an unknown field', all, { ...note, admin: true }],
  ] as const) {
    const { status } = await fetch(`http://127.0.0.1:${port}/api/notes`, { method: 'POST', headers: { ...common, ...headers }, body: JSON.stringify(body) })
    if (status < 400) throw new Error(`bench: ${kind} lets ${what} pass`)
  }
}

/** All must answer in one phase of the event loop, or their ratios say nothing. */
async function samePhase(servers: readonly (readonly [string, Server])[], sent: Headers): Promise<void> {
  const phases = new Map<string, string>()
  for (const [kind, { child, port, people }] of servers) {
    child.send('phase')
    await once(child, 'message')
    const told = once(child, 'message')
    const body = JSON.stringify(note)
    await (await fetch(`http://127.0.0.1:${port}/api/notes`, { method: 'POST', headers: { ...common, ...sent, ...people[0] }, body })).text()
    const [phase] = (await told) as [string]
    phases.set(kind, phase)
  }
  const [first, ...more] = new Set(phases.values())
  if (first === undefined || more.length > 0) throw new Error(`bench: answers are written in different phases: ${JSON.stringify([...phases])}`)
  process.stdout.write(`\nall answer in the phase of ${first}\n`)
}

/** Microseconds of processor time so far. */
async function spent({ child }: Server): Promise<number> {
  child.send('spent')
  const [micros] = (await once(child, 'message')) as [number]
  return micros
}

/** Every answer must be a 201: a refusal is answered faster. */
async function load(server: Server, people: readonly Headers[], seconds: number): Promise<{ readonly speed: number; readonly cpu: number }> {
  const before = await spent(server)
  const result = await autocannon({
    url: `http://127.0.0.1:${server.port}/api/notes`, connections: 16, duration: seconds,
    requests: people.map((own) => ({ method: 'POST' as const, headers: { ...common, ...own }, body: JSON.stringify(note) })),
  })
  const after = await spent(server)
  if (result.non2xx > 0 || result.errors > 0 || result['2xx'] === 0) throw new Error(`bench: ${result.non2xx} refusals and ${result.errors} errors`)
  return { speed: result['2xx'] / result.duration, cpu: (after - before) / result['2xx'] }
}

/** Ours, asked by programs instead of browsers; and our controls before a route of Express' own, with its parser and res.json. */
const [bearers, untouched] = ['ours-bearer', 'ours-res.json']
const middle = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN

/** @param kinds bare first, ours second, then ours in other ways, then the rivals; the last is the one whose added processor time ours is compared with */
async function compare(title: string, kinds: readonly [string, string, ...string[]], redis: string | undefined, seconds: number): Promise<void> {
  const servers: (readonly [string, Server])[] = []
  try {
    for (const kind of kinds) servers.push([kind, await start(kind, redis)])
    for (const [kind, server] of servers.slice(1)) await refuses(kind, server)
    const sent = servers[1]?.[1].people ?? []
    await samePhase(servers, sent[0] ?? {})
    const cpu = new Map<string, number[]>(kinds.map((kind) => [kind, []]))
    const variant = async (kind: string, server: Server): Promise<number> => {
      const measured = await load(server, kind === kinds[0] ? sent : server.people, seconds)
      cpu.get(kind)?.push(measured.cpu)
      return measured.speed
    }
    const [bare, own, ...others] = kinds
    const more = others.filter((kind) => kind === bearers || kind === untouched)
    const rivals = others.filter((kind) => !more.includes(kind))
    await rounds({
      title, rounds: 7,
      variants: Object.fromEntries(servers.map(([kind, server]) => [kind, () => variant(kind, server)])),
      ratios: [...[bare, ...rivals].map((other) => [own, other] as const), ...more.map((kind) => [kind, bare] as const)],
    })
    // The first round of each does not count here either.
    const each = (kind: string): number => middle((cpu.get(kind) ?? []).slice(1))
    for (const kind of kinds.slice(1)) process.stdout.write(`processor time, ${bare} / ${kind}: ${(each(bare) / each(kind)).toFixed(2)}\n`)
    for (const kind of kinds) process.stdout.write(`${kind}: ${each(kind).toFixed(1)} µs of processor time a request, ${(each(kind) - each(bare)).toFixed(1)} more than ${bare}\n`)
    for (const rival of rivals) process.stdout.write(`added by ${own} / added by ${rival}: ${((each(own) - each(bare)) / (each(rival) - each(bare))).toFixed(2)}\n`)
  } finally {
    for (const [, { child }] of servers) child.disconnect()
  }
}

/** Kinds of servers by part of this bench; each part stays below two minutes. */
const parts = {
  memory: { title: 'Express, limits in memory', kinds: ['bare', 'ours', bearers, untouched, 'seed', 'well-set'], shared: false },
  redis: { title: 'Express, limits in Redis', kinds: ['bare', 'ours', 'seed', 'well-set'], shared: true },
  'nest-redis': { title: 'NestJS, limits in Redis', kinds: ['nest-bare', 'nest-ours', 'nest-usual'], shared: true },
  nest: { title: 'NestJS, limits in memory', kinds: ['nest-bare', 'nest-ours', 'nest-usual'], shared: false },
} as const

/**
 * @param only the one part to run; left out: all of them
 * @throws TypeError when there is no such part
 */
export async function run(only?: string): Promise<void> {
  if (only !== undefined && !Object.hasOwn(parts, only)) throw new TypeError(`bench: perimeter takes one of ${Object.keys(parts).join(', ')}`)
  for (const [part, { title, kinds, shared }] of Object.entries(parts)) {
    if (only !== undefined && only !== part) continue
    if (shared && redisAbsent !== false) {
      process.stdout.write(`\n${title}: left out, ${redisAbsent}\n`)
      continue
    }
    const redis = shared ? await startRedis() : undefined
    try {
      await compare(`${title}, 16 connections`, kinds, redis?.url, 2)
    } finally {
      await redis?.remove()
    }
  }
}
