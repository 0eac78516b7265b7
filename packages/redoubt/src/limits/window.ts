/*
 * The sliding window of all limits: a window is cut into tenths, and units are counted in the tenth in which they were
 * taken. The running tenth and the ten before it count. So no span of a window's length ever holds more than the quota,
 * and a unit comes back after one window at the earliest and 1.1 at the latest. A token bucket (GCRA) needs one number
 * less and lets twice the quota through: its burst, and what flows in meanwhile; five tries would be ten.
 */

/** Tenths that count: the running one and those a window reaches back. */
export const counted = 11

/** What one key has used. Oldest first. */
export type Use = { readonly slots: number[]; readonly units: number[]; total: number }

export function freshUse(): Use {
  return { slots: [], units: [], total: 0 }
}

/**
 * Forgets tenths that no longer count. A tenth from the future means that the clock went back: it counts as now, or a
 * key would stay closed until the clock has caught up.
 */
export function advance(use: Use, slot: number): void {
  const { slots, units } = use
  // Nearly always: the newest is now, and the oldest still counts.
  if (slots[slots.length - 1] === slot && (slots[0] ?? slot) > slot - counted) return
  let gone = 0
  while (gone < slots.length && (slots[gone] ?? 0) <= slot - counted) use.total -= units[gone++] ?? 0
  if (gone > 0) {
    slots.splice(0, gone)
    units.splice(0, gone)
  }
  let early = 0
  while ((slots.at(-1) ?? slot) > slot) {
    slots.pop()
    early += units.pop() ?? 0
  }
  use.total -= early
  if (early > 0) add(use, slot, early)
}

/** Counts units in the running tenth; only after `advance`. */
export function add(use: Use, slot: number, cost: number): void {
  const { slots, units } = use
  const last = slots.length - 1
  if (last >= 0 && slots[last] === slot) units[last] = (units[last] ?? 0) + cost
  else {
    slots.push(slot)
    units.push(cost)
  }
  use.total += cost
}

/** Takes units back out of a tenth, as far as they still count. */
export function subtract(use: Use, slot: number, cost: number): void {
  const at = use.slots.indexOf(slot)
  if (at < 0) return
  const back = Math.min(cost, use.units[at] ?? 0)
  use.units[at] = (use.units[at] ?? 0) - back
  use.total -= back
}

/**
 * Milliseconds until `need` units have come back.
 * @param width milliseconds of a tenth
 */
export function waitFor(use: Use, need: number, now: number, width: number): number {
  let sum = 0
  for (const [at, slot] of use.slots.entries()) {
    sum += use.units[at] ?? 0
    if (sum >= need) return Math.max((slot + counted) * width - now, 1)
  }
  return counted * width
}
