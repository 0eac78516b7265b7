import { parseArgs } from 'node:util'
import { rounds } from './rounds.ts'
import { openWorld, type Ids } from './reencrypt/world.ts'

/** Bytes of resident memory, as people write them. */
const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6)} MB`

/** One job over so many rows: what it costs on both sides, and how far its memory grows. */
async function once(rows: number, people: number, ids: Ids): Promise<void> {
  const world = await openWorld(rows, people, ids)
  try {
    await world.rotate()
    const { seconds, cpuSeconds, serverSeconds, rss, rssBefore, result } = await world.job()
    process.stdout.write(`${rows.toLocaleString('en')} rows, ${people.toLocaleString('en')} people: ${seconds.toFixed(1)} s, ${Math.round(rows / seconds).toLocaleString('en')} rows a second; processor time a row: ${((cpuSeconds * 1e6) / rows).toFixed(1)} µs here, ${((serverSeconds * 1e6) / rows).toFixed(1)} µs in the server; resident ${megabytes(rssBefore)} before, at most ${megabytes(rss)}; ${result.counts.changed} changed, proven: ${result.proven}\n`)
  } finally {
    await world.close()
  }
}

function whole(name: string, text: string | undefined, fallback: number): number {
  const value = text === undefined ? fallback : Number(text)
  if (!Number.isInteger(value) || value < 1) throw new TypeError(`reencrypt: --${name} must be a positive whole number`)
  return value
}

/**
 * `npm run bench -- reencrypt [--rows n] [--people n] [--ids time|random] [--once]`: re-encryption with a blind index against a loop of one UPDATE
 * per row and against `UPDATE … SET col = col` of the same rows. Every round has new data keys and a new index key, so
 * that each row is opened, sealed and indexed anew; the job counts from planning to proof. Two mixes unless --people
 * says one: thirty rows a person, and the hardest, one row a person (two data keys unwrapped for each row).
 * All write a table with primary key, unique index over the blind index, forced row security, no trigger. The bare
 * update runs as superuser, past the policies, in one statement and one commit, with its scan in the order of the
 * table. The loop works on a copy with the same indexes and policies: one prepared statement a row by primary key, each
 * its own commit, that writes what the job writes, the value sealed anew and its index under a new key; under one data
 * key, without compare-and-set or place to resume from. The server flushes its log as it is shipped. Row ids are made
 * as the platform makes them (UUIDv7); `--ids random` scatters the rows of a page over the table.
 * --once runs the job alone, over a million rows unless --rows says otherwise, and prints what its memory grows to.
 */
export async function run(): Promise<void> {
  const { values } = parseArgs({ args: process.argv.slice(3), options: { rows: { type: 'string' }, people: { type: 'string' }, ids: { type: 'string', default: 'time' }, once: { type: 'boolean', default: false } } })
  const { ids } = values
  if (ids !== 'time' && ids !== 'random') throw new TypeError('reencrypt: --ids must be time or random')
  if (values.once) {
    const many = whole('rows', values.rows, 1_000_000)
    return once(many, whole('people', values.people, Math.ceil(many / 30)), ids)
  }
  const rows = whole('rows', values.rows, 300_000)
  const mixes = values.people === undefined ? [Math.ceil(rows / 30), rows] : [whole('people', values.people, rows)]
  for (const people of mixes) {
    const world = await openWorld(rows, people, ids)
    try {
      const seconds: number[] = []
      const cpu: number[] = []
      const server: number[] = []
      let rss = 0
      const outcome = await rounds({
        title: `re-encryption of ${rows.toLocaleString('en')} rows with a blind index, ${people.toLocaleString('en')} people${ids === 'random' ? ', ids at random' : ''}`,
        rounds: 5,
        variants: {
          job: async () => {
            await world.rotate()
            const done = await world.job()
            seconds.push(done.seconds)
            cpu.push((done.cpuSeconds * 1e6) / rows)
            server.push((done.serverSeconds * 1e6) / rows)
            rss = Math.max(rss, done.rss)
            return rows / done.seconds
          },
          'one UPDATE per row': () => world.loop(Math.min(rows, 5000)),
          'UPDATE SET col = col': () => world.bare(),
          'seal and index in memory': () => Promise.resolve(world.crypto(50_000)),
        },
        ratios: [['job', 'one UPDATE per row'], ['job', 'UPDATE SET col = col'], ['job', 'seal and index in memory']],
      })
      seconds.shift()
      for (const list of [cpu, server]) list.shift()
      for (const list of [seconds, cpu, server]) list.sort((a, b) => a - b)
      process.stdout.write(`job: ${(seconds[2] ?? 0).toFixed(1)} s (median), ${(cpu[2] ?? 0).toFixed(1)} µs of processor time a row here and ${(server[2] ?? 0).toFixed(1)} µs in the server, at most ${megabytes(rss)} resident\n`)
      const [loops, bare] = [outcome.job.median / outcome['one UPDATE per row'].median, outcome.job.median / outcome['UPDATE SET col = col'].median]
      process.stdout.write(`goals: at least 20 times the loop: ${loops >= 20 ? 'held' : 'NOT HELD'}; at least 0.17 of the bare update: ${bare >= 0.17 ? 'held' : 'NOT HELD'}\n`)
    } finally {
      await world.close()
    }
  }
}
