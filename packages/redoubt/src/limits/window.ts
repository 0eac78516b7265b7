/*
 * The sliding window of all limits: a window is cut into tenths, and units are counted in the tenth in which they were
 * taken. The running tenth and the ten before it count. So no span of a window's length ever holds more than the quota,
 * and a unit comes back after one window at the earliest and 1.1 at the latest. A token bucket (GCRA) needs one number
 * less and lets twice the quota through: its burst, and what flows in meanwhile; five tries would be ten.
 */

/** Tenths that count: the running one and those a window reaches back. */
export const counted = 11

/**
 * What one key has used. The newest tenth stands beside the sum, because nearly every decision needs these alone: as
 * elements of lists they were two more places of memory to fetch, a fifth of a decision.
 */
export type Use = {
  /** The newest tenth in which units were counted; -1 before the first. */
  slot: number
  /** Units counted in it. */
  units: number
  /** Units of all tenths that count. */
  total: number
  /** The oldest tenth that counts; -1 when none does. */
  oldest: number
  /** The tenths before the newest and their units by turns, oldest first. */
  readonly past: number[]
}

/**
 * Forgets tenths that no longer count. A tenth from the future means that the clock went back: it counts as now, or a
 * key would stay closed until the clock has caught up.
 */
export function advance(use: Use, slot: number): void {
  // Nearly always: the newest is now, and the oldest still counts.
  if (use.slot !== slot || use.oldest <= slot - counted) forget(use, slot)
}

/** Apart, so that the usual case is small enough to be put where it is asked. */
function forget(use: Use, slot: number): void {
  const { past } = use
  if (use.slot > slot - counted && use.slot >= 0) past.push(use.slot, use.units)
  else past.length = 0
  let kept = 0
  let early = 0
  use.total = 0
  for (let at = 0; at < past.length; at += 2) {
    const tenth = past[at] ?? 0
    const units = past[at + 1] ?? 0
    // None are left where all were given back.
    if (tenth <= slot - counted || units === 0) continue
    use.total += units
    if (tenth > slot) early += units
    else {
      past[kept++] = tenth
      past[kept++] = units
    }
  }
  past.length = kept
  if (early > 0 && past[kept - 2] !== slot) past.push(slot, 0)
  use.units = (past.pop() ?? 0) + early
  use.slot = past.pop() ?? -1
  use.oldest = past[0] ?? use.slot
}

/** Counts units in the running tenth; only after `advance`. */
export function add(use: Use, slot: number, cost: number): void {
  if (use.slot !== slot) open(use, slot)
  use.units += cost
  use.total += cost
}

function open(use: Use, slot: number): void {
  if (use.slot >= 0) use.past.push(use.slot, use.units)
  else use.oldest = slot
  use.slot = slot
  use.units = 0
}

/** Takes units back out of a tenth, as far as they still count. */
export function subtract(use: Use, slot: number, cost: number): void {
  if (slot === use.slot) {
    const back = Math.min(cost, use.units)
    use.units -= back
    use.total -= back
    return
  }
  for (let at = 0; at < use.past.length; at += 2) {
    if (use.past[at] !== slot) continue
    const units = use.past[at + 1] ?? 0
    const back = Math.min(cost, units)
    use.past[at + 1] = units - back
    use.total -= back
  }
}

/**
 * Milliseconds until `need` units have come back.
 * @param width milliseconds of a tenth
 */
export function waitFor(use: Use, need: number, now: number, width: number): number {
  let sum = 0
  for (let at = 0; at < use.past.length; at += 2) {
    sum += use.past[at + 1] ?? 0
    if (sum >= need) return untilBack(use.past[at] ?? 0, now, width)
  }
  return sum + use.units >= need ? untilBack(use.slot, now, width) : counted * width
}

/** Whole milliseconds until a tenth no longer counts, at least one. */
export function untilBack(slot: number, now: number, width: number): number {
  return Math.max(Math.ceil((slot + counted) * width - now), 1)
}
