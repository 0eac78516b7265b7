import { setTimeout as pause } from 'node:timers/promises'

/**
 * Does work whose duration would tell something (whether an address has an account, whether a code was ever made), and
 * gives its outcome, also a refusal, not before a time that the work stays under: all outcomes then take that time. Work
 * that takes longer, on a machine under load, answers when it is done.
 * @param milliseconds from 1 to 1,000, well above what the work takes
 * @throws TypeError when milliseconds is out of range; else what the work throws
 */
export async function evenly<T>(milliseconds: number, work: () => Promise<T>): Promise<T> {
  if (!Number.isInteger(milliseconds) || milliseconds < 1 || milliseconds > 1_000) throw new TypeError('evenly: milliseconds must be a whole number from 1 to 1000')
  const passed = pause(milliseconds)
  try {
    return await work()
  } finally {
    await passed
  }
}
