import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import type { Soak } from '../soak.ts'
import { redisAbsent, startRedis } from '../support/redis.ts'

/** What an instance under load tells at its end. */
export type Told = {
  readonly decisions: number
  readonly allowed: number
  /** Decisions that threw: none may. */
  readonly failed: number
  /** Decisions after which Redis was away, and that had waited for it. */
  readonly waited: number
  /** The longest of all decisions in milliseconds; how much of it the loop of the process itself stood still, and was at work in that. */
  readonly longest: number
  readonly paused: number
  readonly atWork: number
  /** The longest wait of any decision, without the time in which the process itself stood still. */
  readonly longestWait: number
  /** By Node's histogram of the delay of the loop: 99th percentile and longest. */
  readonly usualPause: number
  readonly longestPause: number
}

type Instance = { readonly working: Promise<void>; readonly told: Promise<Told> }

function start(settings: Readonly<Record<string, unknown>>): Instance {
  const child = fork(join(import.meta.dirname, '../support/limit-load.ts'), [JSON.stringify(settings)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  let working: () => void = () => undefined
  const told = new Promise<Told>((resolve, reject) => {
    child.on('message', (message) => (message === 'working' ? working() : resolve(message as Told)))
    child.once('exit', (code) => reject(new Error(`an instance ended with ${code ?? 'a signal'}`)))
  })
  return { working: new Promise((resolve) => (working = resolve)), told }
}

const sum = (all: readonly Told[], of: (told: Told) => number): number => all.reduce((total, told) => total + of(told), 0)

/**
 * Two and four instances share limits through one Redis: exact while it stands; and while it is stopped, killed, flushed
 * and started again under load nothing fails, and nobody waits but those who were on their way when it went.
 */
export const soak: Soak = async ({ short, print }) => {
  if (redisAbsent !== false) return print(`left out: ${redisAbsent}`)
  const server = await startRedis()
  const base = { url: server.url, secret: randomBytes(32).toString('hex') }
  try {
    for (const instances of [2, 4]) {
      const quota = short ? 2_000 : 50_000
      const settings = { ...base, key: `exact ${instances}`, quota, away: 1, timeout: 10_000, tries: Math.ceil((quota * 1.5) / instances) }
      const told = await Promise.all(Array.from({ length: instances }, () => start(settings).told))
      const allowed = sum(told, (each) => each.allowed)
      print(`${instances} instances, ${sum(told, (each) => each.decisions)} decisions at one limit of ${quota}: ${allowed} allowed`)
      assert.equal(allowed, quota)
    }

    const [instances, quota, away, rounds] = [4, 3_000, 500, short ? 1 : 12]
    const running = Array.from({ length: instances }, () => start({ ...base, key: 'outage', quota, away, timeout: 50, seconds: rounds * 4 + 2 }))
    await Promise.all(running.map((each) => each.working))
    await pause(200)
    let emptied = 0
    for (let round = 0; round < rounds; round++) {
      server.freeze()
      await pause(1_000)
      server.thaw()
      await pause(500)
      await server.command('FLUSHALL')
      await pause(500)
      await server.kill()
      await pause(1_000)
      await server.start()
      emptied += 2
      await pause(1_000)
    }
    const told = await Promise.all(running.map((each) => each.told))
    const [decisions, allowed, failed, waited] = [sum(told, (each) => each.decisions), sum(told, (each) => each.allowed), sum(told, (each) => each.failed), sum(told, (each) => each.waited)]
    const bound = quota * (1 + emptied) + instances * away
    print(`${instances} instances, ${decisions} decisions while Redis was stopped, flushed and killed ${rounds} times each: ${failed} failed, ${allowed} allowed (bound ${bound}), ${waited} waited for it`)
    for (const { longest, paused, atWork, longestWait, usualPause, longestPause } of told) {
      print(`longest decision ${longest.toFixed(1)} ms, in ${paused.toFixed(1)} of which the process itself stood still (at work in ${atWork.toFixed(1)}, else not let run); longest wait without such pauses ${longestWait.toFixed(1)} ms (delay of its loop: p99 ${usualPause.toFixed(1)}, longest ${longestPause.toFixed(1)} ms)`)
    }
    assert.equal(failed, 0)
    assert.ok(allowed <= bound, 'more than the quota for each time it was emptied, and what instances give by themselves')
    for (const { longestWait } of told) assert.ok(longestWait <= 50, `somebody waited ${longestWait} ms for Redis`)
    assert.ok(waited > 0, 'nobody was on the way: nothing was shown')
    // Twenty under way in each instance, and the door closed for all of them at once: three times a round it can happen.
    assert.ok(waited <= instances * 20 * 3 * rounds + instances * 20, 'somebody waited twice')
  } finally {
    await server.remove()
  }
}
