import { globSync, readFileSync } from 'node:fs'
import { stripTypeScriptTypes } from 'node:module'
import { join } from 'node:path'

/** Hit and found, of lines and of branches. */
type Counts = { readonly lines: readonly [hit: number, found: number]; readonly branches: readonly [hit: number, found: number] }
type Gate = { readonly name: string; readonly least: number; readonly files: (path: string) => boolean }

const usage = `node packages/redoubt/test/support/coverage.ts <lcov file>

Holds the coverage of a test run against the gates and ends with 1 where one is missed.
`
const repository = join(import.meta.dirname, '../../../..')
const sources = ['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts']

function moduleGate(name: string): Gate {
  return { name, least: 95, files: (path) => path === `packages/redoubt/src/${name}.ts` || path.startsWith(`packages/redoubt/src/${name}/`) }
}

/** A module is its head and the parts in its folder. */
const gates: readonly Gate[] = [{ name: 'everything', least: 80, files: () => true }, ...['seal', 'keyring', 'columns', 'transaction', 'tokens'].map(moduleGate)]

/** What each file of an lcov report counts, by its path from the root of the repository. */
function readReport(text: string): ReadonlyMap<string, Counts> {
  return new Map(
    text.split('end_of_record').flatMap((record) => {
      const path = /^SF:(.+)$/m.exec(record)?.[1]
      if (path === undefined) return []
      const number = (key: string): number => Number(new RegExp(`^${key}:(\\d+)$`, 'm').exec(record)?.[1] ?? 0)
      return [[path.replaceAll('\\', '/').replace(`${repository}/`, ''), { lines: [number('LH'), number('LF')], branches: [number('BRH'), number('BRF')] }] as const]
    }),
  )
}

/** A file that no test loads is missing from the report; its lines count as missed, unless it has only types. */
function unloaded(path: string): Counts {
  const code = stripTypeScriptTypes(readFileSync(join(repository, path), 'utf8')).replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '')
  const lines = code.split('\n').filter((line) => line.trim() !== '').length
  return { lines: [0, lines], branches: [0, 0] }
}

function percent([hit, found]: readonly [hit: number, found: number]): number {
  return found === 0 ? 100 : (100 * hit) / found
}

function main(path: string | undefined): number {
  if (path === undefined || path === '--help') {
    process.stdout.write(usage)
    return path === undefined ? 2 : 0
  }
  const report = readReport(readFileSync(path, 'utf8'))
  const files = globSync(sources, { cwd: repository }).sort().map((file) => [file, report.get(file) ?? unloaded(file)] as const)
  const row = (name: string, { lines, branches }: Counts, mark: string): void =>
    void process.stdout.write(`${name.padEnd(52)} lines ${percent(lines).toFixed(1).padStart(5)}  branches ${percent(branches).toFixed(1).padStart(5)}${mark}\n`)

  let missed = 0
  for (const { name, least, files: belongs } of gates) {
    const own = files.filter(([file]) => belongs(file))
    const total = (kind: keyof Counts, at: 0 | 1): number => own.reduce((sum, [, counts]) => sum + counts[kind][at], 0)
    const counts: Counts = { lines: [total('lines', 0), total('lines', 1)], branches: [total('branches', 0), total('branches', 1)] }
    const short = own.length === 0 || percent(counts.lines) < least || percent(counts.branches) < least
    if (short) missed++
    row(name, counts, short ? `  below ${least}` : '')
    // Where a module misses its gate, and everywhere below the overall one: which files.
    for (const [file, one] of own) {
      if (percent(one.lines) < least || percent(one.branches) < least) row(`  ${file}`, one, '')
    }
  }
  return missed === 0 ? 0 : 1
}

process.exitCode = main(process.argv[2])
