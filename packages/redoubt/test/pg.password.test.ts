import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { openPool, type Pool } from '../src/pg.ts'
import { testDatabase } from './support/database.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const login = `redoubt_test_swap_${process.pid}`

function urlWith(password: string): string {
  const url = new URL(database.url('app'))
  url.username = login
  url.password = encodeURIComponent(password)
  return url.href
}

/** A new connection each time: what is open already never notices. */
async function freshSignIn(pool: Pool): Promise<void> {
  const connection = await pool.connect()
  const { failure } = await connection.send([{ text: 'select 1 as one', values: [] }])
  connection.release('the next one signs in anew')
  if (failure !== undefined) throw failure.refusal
}

test('the password of a database login is replaced under load: new one stored, server told, no sign-in refused', async () => {
  const passwords = [randomBytes(12).toString('hex'), `${randomBytes(12).toString('hex')}:/@%é`, randomBytes(12).toString('hex')]
  let stored = passwords[0] ?? ''
  let read = 0
  await database.admin(`create role ${login} login inherit password '${stored}' in role "${database.service}_app"`)
  const url = urlWith(stored)
  const pool = openPool({ url, urlAgain: () => { read++; return Promise.resolve(urlWith(stored)) }, max: 6, connectTimeout: 60_000, emit: () => undefined })
  const unaware = openPool({ url, max: 1, emit: () => undefined })
  try {
    await freshSignIn(unaware)
    let running = true
    let signIns = 0
    const load = Array.from({ length: 6 }, async () => {
      while (running) {
        await freshSignIn(pool)
        signIns++
      }
    })
    const some = async (): Promise<void> => {
      const before = signIns
      while (signIns < before + 30) await Promise.race([...load, new Promise((resolve) => setTimeout(resolve, 5))])
    }
    await some()
    for (const next of passwords.slice(1)) {
      stored = next
      await some()
      await database.admin(`alter role ${login} password '${next}'`)
      await some()
    }
    running = false
    await Promise.all(load)
    assert.ok(read > 0 && read <= 12, `read ${read} times: once a replacement and client at most`)
    await assert.rejects(freshSignIn(unaware), { code: 'database_unavailable', detail: 'the sign-in was refused' })

    await database.admin(`alter role ${login} password 'known to nobody'`)
    await assert.rejects(freshSignIn(pool), { code: 'database_unavailable', detail: 'the sign-in was refused' })
  } finally {
    await pool.close()
    await unaware.close()
    await database.admin(`drop role ${login}`)
  }
})

test('a store that cannot be read leaves the refusal of the sign-in as it is', async () => {
  const pool = openPool({ url: urlWith('wrong'), urlAgain: () => Promise.reject(new Error('no such file /run/secrets/database-url')), max: 1, emit: () => undefined })
  await assert.rejects(freshSignIn(pool), { code: 'database_unavailable', detail: 'the sign-in was refused' })
  await pool.close()
})
