import { randomBytes, randomInt } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import { openPool } from 'redoubt/pg'
import { openSigner } from 'redoubt/transaction/signer'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import { startMail } from '../../src/letters.ts'
import { openClinic } from '../support/clinic.ts'

/** Sends one request about an address that has an account, or about one that has none; the milliseconds are its answer's. */
type Ask = (known: boolean) => Promise<number>

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const half = sorted.length >> 1
  return sorted.length % 2 === 1 ? (sorted[half] ?? 0) : ((sorted[half - 1] ?? 0) + (sorted[half] ?? 0)) / 2
}

/** What chance alone makes of a median of so many differences: three standard errors, by the median deviation. */
function noise(differences: readonly number[]): number {
  const middle = median(differences)
  const deviation = 1.4826 * median(differences.map((difference) => Math.abs(difference - middle)))
  return (3 * 1.2533 * deviation) / Math.sqrt(differences.length)
}

/**
 * Whether the time of an answer tells who has an account. Pairs of known and unknown, in an order that is drawn for each
 * pair, so that whatever else the machine does meets both alike. 400 pairs a route; their medians differ by less than 5 %.
 * The short form begins with 40, on a machine that may be busy: where these differ by as much, and beyond chance, it takes
 * 40 more at a time, up to the 400 that the promise speaks of. Of so few, one run in a hundred differed by the machine alone.
 */
export const soak: Soak = async ({ short, print }) => {
  const clinic = await openClinic({ settings: { controls: { limits: 'off' } } })
  try {
    const ada = await clinic.patient()
    const fresh = (): string => `nobody.${randomBytes(6).toString('hex')}@example.org`
    const timed = async (path: string, body: unknown, status: number): Promise<number> => {
      const started = performance.now()
      const answer = await clinic.send()('POST', `/api/auth/${path}`, body)
      const took = performance.now() - started
      if (answer.status !== status) throw new Error(`${path} answered ${answer.status}, not ${status}: ${answer.text}`)
      return took
    }
    // The worker makes the code where there is an account; it has done so before anybody's wrong code is timed.
    const pool = openPool({ url: clinic.database.url('worker'), max: 1, emit: () => undefined })
    const keysPool = openPool({ url: clinic.database.url('keys'), max: 1, emit: () => undefined })
    const signer = await openSigner(keysPool, clinic.database.service)
    const worker = startMail({ pool, signer, keyring: clinic.service.keyring, mailer: { send: () => Promise.resolve() }, emit: () => undefined, pace: { intervalMs: 5 } })
    const requests = async (known: boolean): Promise<unknown> => {
      // Ten codes of a person may be open; the soak asks for more.
      await clinic.database.admin("update redoubt.one_time_codes set expires_at = now() where purpose = 'reset'")
      const { body } = await clinic.send()('POST', '/api/auth/password/forgot', { email: known ? ada.email : fresh() })
      while ((await clinic.database.admin("select 1 from redoubt.outbox where state = 'waiting'")).length > 0) await setTimeout(2)
      return body['request']
    }
    const person = { role: 'patient', password: 'correct horse battery', first_name: 'New', last_name: 'Person', dob: '1990-01-01' }
    const routes: Readonly<Record<string, Ask>> = {
      'sign in': (known) => timed('login', { email: known ? ada.email : fresh(), password: 'not the password' }, 401),
      register: (known) => timed('register', { ...person, email: known ? ada.email : fresh() }, 202),
      'forgot password': (known) => timed('password/forgot', { email: known ? ada.email : fresh() }, 202),
      'reset with a wrong code': async (known) => timed('password/reset', { request: await requests(known), code: '00000000', password: 'a new pass phrase' }, 401),
    }
    const all = 400
    const step = short ? 40 : all
    const problems: string[] = []
    for (const [name, ask] of Object.entries(routes)) {
      for (let i = 0; i < 10; i++) await ask(i % 2 === 0)
      while ((await clinic.database.admin("select 1 from redoubt.outbox where state = 'waiting'")).length > 0) await setTimeout(5)
      const times: [known: number, unknown: number][] = []
      let told = true
      while (told && times.length < all) {
        for (let i = 0; i < step; i++) {
          const first = randomInt(2) === 0
          const one = await ask(first)
          const other = await ask(!first)
          times.push(first ? [one, other] : [other, one])
        }
        const [known, unknown] = [median(times.map(([a]) => a)), median(times.map(([, b]) => b))]
        const differences = times.map(([a, b]) => a - b)
        const part = Math.abs(known - unknown) / unknown
        print(`${name}: ${times.length} pairs, median known ${known.toFixed(2)} ms, unknown ${unknown.toFixed(2)} ms, difference ${(100 * part).toFixed(1)} %`)
        told = part >= 0.05 && (!short || Math.abs(median(differences)) > noise(differences))
      }
      if (told) problems.push(name)
    }
    await worker.stop()
    await signer.close()
    await Promise.all([pool.close(), keysPool.close()])
    if (problems.length > 0) throw new Error(`the time of the answer tells who has an account: ${problems.join('; ')}`)
  } finally {
    await clinic.close()
    await clinic.database.drop()
  }
}
