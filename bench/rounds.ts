import { availableParallelism } from 'node:os'

/** Measures its own work once and says how many operations a second it did. */
export type Variant = () => Promise<number>
export type Outcome = { readonly median: number; readonly least: number; readonly most: number }

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  const upper = sorted[middle] ?? 0
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2
}

function show(value: number): string {
  return value >= 100 ? Math.round(value).toLocaleString('en') : value.toFixed(1)
}

/**
 * Runs every variant once a round, in turning order, after one round that does not count: what the machine does
 * meanwhile, and what runs first, meets all of them alike. Only ratios inside one run hold.
 * @param options.variants name to measurement
 * @param options.rounds counted rounds, 5 or more
 * @param options.ratios pairs of names to divide; by default the first variant by each other
 * @returns medians by name; the table and the ratios go to `print`
 * @throws TypeError when there are fewer than 5 rounds or no variants
 */
export async function rounds<N extends string>(options: {
  readonly variants: Readonly<Record<N, Variant>>
  readonly rounds: number
  readonly title?: string
  readonly ratios?: readonly (readonly [N, N])[]
  readonly print?: (line: string) => void
}): Promise<Readonly<Record<N, Outcome>>> {
  const print = options.print ?? ((line: string) => process.stdout.write(`${line}\n`))
  const names = Object.keys(options.variants) as N[]
  const [first] = names
  if (first === undefined) throw new TypeError('rounds: variants must not be empty')
  if (!(options.rounds >= 5)) throw new TypeError('rounds: rounds must be 5 or more')

  const seen = new Map<N, number[]>(names.map((name) => [name, []]))
  for (let round = -1; round < options.rounds; round++) {
    const turn = Math.max(round, 0) % names.length
    for (const name of [...names.slice(turn), ...names.slice(0, turn)]) {
      const speed = await options.variants[name]()
      if (round >= 0) seen.get(name)?.push(speed)
    }
  }

  const outcome = (name: N): Outcome => {
    const values = seen.get(name) ?? []
    return { median: median(values), least: Math.min(...values), most: Math.max(...values) }
  }
  const width = Math.max(...names.map((name) => name.length))
  if (options.title !== undefined) print(`\n${options.title}`)
  print(`Node ${process.version}, ${availableParallelism()} cores, ${options.rounds} rounds, operations a second`)
  for (const name of names) {
    const { median: middle, least, most } = outcome(name)
    print(`${name.padEnd(width)}  median ${show(middle).padStart(11)}   min ${show(least).padStart(11)}   max ${show(most).padStart(11)}`)
  }
  for (const [above, below] of options.ratios ?? names.slice(1).map((name) => [first, name] as const)) {
    const base = seen.get(below) ?? []
    const ratios = (seen.get(above) ?? []).map((value, i) => value / (base[i] ?? Number.NaN))
    const spread = `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`
    print(`${above} / ${below}: ${(outcome(above).median / outcome(below).median).toFixed(2)}x (round by round ${spread})`)
  }
  return Object.fromEntries(names.map((name) => [name, outcome(name)])) as Readonly<Record<N, Outcome>>
}
