import type { Emit } from '../events.ts'
import type { Pool } from '../pg.ts'
import { startRounds } from '../rounds.ts'

export type UsageWatchSettings = {
  /** Pool of the worker role. */
  readonly pool: Pick<Pool, 'query'>
  readonly emit: Emit
  /** Milliseconds between two looks. Default one minute. */
  readonly intervalMs?: number
  /** How many times its baseline a use must be to be unusual. Default 3. */
  readonly times?: number
  /** The least baseline, in keys opened an hour: below three times that nothing is unusual. Default 200. */
  readonly least?: number
}

type Unusual = { readonly hour: Date; readonly actor: string; readonly purpose: string; readonly data_class: string; readonly uses: bigint; readonly baseline: bigint }

const find = { name: 'redoubt_keys_unusual', text: 'select hour, actor, purpose, data_class, uses, baseline from guard.find_unusual_key_use($1, $2)' }
const forget = { name: 'redoubt_keys_forget_usage', text: 'select guard.forget_key_usage($1) as gone' }
const batch = 10_000
/** One look in this many also deletes what is too old. */
const forgetEvery = 60

function whole(name: string, value: number, most: number): number {
  if (!Number.isInteger(value) || value < 1 || value > most) throw new TypeError(`startUsageWatch: ${name} must be a whole number from 1 to ${most}`)
  return value
}

/**
 * Starts the loop that looks for unusual use of keys: an actor class that opens keys of a data class for a purpose more
 * than `times` as often as in the same hour of the last seven days (guard.find_unusual_key_use has the rule). Each is
 * told once, as `security.key_use_unusual`, by whichever worker finds it. It also deletes records older than 400 days.
 * @throws TypeError when a setting is not usable
 */
export function startUsageWatch(settings: UsageWatchSettings): { stop(): Promise<void> } {
  const { pool, emit } = settings
  const interval = whole('intervalMs', settings.intervalMs ?? 60_000, 3_600_000)
  const times = whole('times', settings.times ?? 3, 1_000)
  const least = whole('least', settings.least ?? 200, 1_000_000_000)
  let looks = 0

  async function look(): Promise<void> {
    const count = looks++
    try {
      for (const { hour, actor, purpose, data_class: dataClass, uses, baseline } of await pool.query<Unusual>({ ...find, values: [times, least] })) {
        emit({ type: 'security.key_use_unusual', hour: hour.toISOString(), actor, purpose: purpose === '' ? null : purpose, dataClass, uses: Number(uses), baseline: Number(baseline) })
      }
      if (count % forgetEvery === 0) await pool.query({ ...forget, values: [batch] })
    } catch (error) {
      emit({ type: 'key.usage_failed', error })
    }
  }

  return startRounds({ pauseMs: interval, round: look })
}
