import assert from 'node:assert/strict'
import { randomInt } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { Refusal } from '../../src/errors.ts'
import { transaction } from '../../src/transaction.ts'
import { makeAccount, type Account } from './accounts.ts'
import type { TestDatabase } from './database.ts'
import { openTestGate } from './gate.ts'
import { createNotes, plantNote } from './notes.ts'
import { startPooler } from './pgbouncer.ts'

export type Tally = { answered: number; aborted: number; cut: number; killed: number; busiest: number }

type Note = { readonly owner: string; readonly body: string }

/** Twenty people with five notes each; each note says whose it is. */
export async function gatherCrowd(database: TestDatabase): Promise<readonly Account[]> {
  await createNotes(database)
  const people = await Promise.all(Array.from({ length: 20 }, (_, n) => makeAccount(database, `person-${n}`)))
  for (const { actor } of people) for (let n = 0; n < 5; n++) await plantNote(database, actor, `of ${actor}`)
  return people
}

/**
 * 200 clients at once over a pool of 10: mixed callers and mixed ways, calls that fail, SQL that tries to poison its
 * session, and sessions killed all the while. Throws as soon as anybody sees a row that is not theirs.
 * @param settings.seconds how long
 * @param settings.pooled through PgBouncer in transaction mode, over five server sessions
 */
export async function jostle(database: TestDatabase, people: readonly Account[], settings: { readonly seconds: number; readonly pooled: boolean; readonly clients?: number }): Promise<Tally> {
  const pooler = settings.pooled ? await startPooler({ urls: [database.url('app')], poolSize: 5 }) : null
  const url = pooler === null ? database.url('app') : pooler.url(database.url('app'))
  const { gate, pool, close } = await openTestGate(database, { url, max: 10, namedStatements: !settings.pooled, connectTimeout: 30_000 })
  const tally: Tally = { answered: 0, aborted: 0, cut: 0, killed: 0, busiest: 0 }
  const end = performance.now() + settings.seconds * 1000
  let broken: Error | undefined

  const mine = (person: Account, rows: readonly Note[]): void => {
    for (const row of rows) assert.deepEqual([row.owner, row.body], [person.actor, `of ${person.actor}`], 'somebody saw a row of another')
    assert.ok(rows.length >= 5, 'somebody did not see all of their own rows')
  }
  const read = { name: 'crowd_read', text: 'select owner, body from attacks.notes', values: [] }
  const mad = new Error('on purpose')

  async function call(person: Account, kind: number): Promise<void> {
    switch (kind) {
      case 0:
      case 1:
        return mine(person, await transaction.one<typeof gate.actions, Note>(gate, person, 'test.read', read))
      case 2:
        return transaction(gate, person, 'test.write', async (tx) => {
          const [mineNow, , again] = await Promise.all([tx.query<Note>(read), tx.query({ name: 'crowd_touch', text: 'update attacks.notes set at = now() where owner = $1', values: [person.actor] }), tx.query<Note>(read)])
          mine(person, mineNow)
          mine(person, again)
        })
      case 3:
        return transaction(gate, person, 'test.write', async (tx) => {
          mine(person, await tx.query<Note>(read))
          await tx.query({ text: 'insert into attacks.notes (owner, body) values ($1, $2)', values: [person.actor, 'never committed'] })
          throw mad
        })
      case 4:
        await transaction.one(gate, person, 'test.look', { text: `select attacks.setting('search_path', 'attacks', false), attacks.setting('redoubt.caller', 'x', false), attacks.setting('datestyle', 'German', false)`, values: [] })
        return mine(person, await transaction.one<typeof gate.actions, Note>(gate, person, 'test.look', read))
      default:
        return transaction(gate, person, 'test.read', async (tx) => {
          mine(person, await tx.query<Note>(read))
          await tx.query({ text: 'select body::int from attacks.notes', values: [] }).catch(() => undefined)
        })
    }
  }

  async function client(): Promise<void> {
    while (performance.now() < end && broken === undefined) {
      const person = people[randomInt(people.length)]
      assert.ok(person !== undefined)
      tally.busiest = Math.max(tally.busiest, pool.gauge().waiting)
      try {
        await call(person, randomInt(6))
        tally.answered++
      } catch (error) {
        if (error === mad || (error instanceof Refusal && error.code === 'database_error')) tally.aborted++
        // Cut sessions and, where the entry could not be written on them either, 503.
        else if (error instanceof Refusal && error.status === 503) tally.cut++
        else broken ??= error instanceof Error ? error : new Error(String(error))
      }
    }
  }
  async function killer(): Promise<void> {
    while (performance.now() < end && broken === undefined) {
      const rows = await database.admin(
        `select pg_terminate_backend(pid) from pg_stat_activity where usename = $1 and datname = $2 order by random() limit 1`, [`${database.service}_app`, database.name])
      tally.killed += rows.length
      await delay(50)
    }
  }
  try {
    await Promise.all([killer(), ...Array.from({ length: settings.clients ?? 200 }, client)])
    if (broken !== undefined) throw broken
    assert.deepEqual(await database.admin(`select from attacks.notes where body = 'never committed'`), [], 'an aborted write is there')
    return tally
  } finally {
    await close()
    await pooler?.stop()
  }
}
