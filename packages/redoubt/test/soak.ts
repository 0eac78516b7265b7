import { glob } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { parseArgs } from 'node:util'

/** A soak test: bounded in count and time. It prints figures, and throws when something does not hold. */
export type Soak = (settings: { readonly short: boolean; readonly print: (line: string) => void }) => Promise<void>

const repository = join(import.meta.dirname, '../../..')
const files = new Map<string, string>()
for await (const file of glob(['packages/*/test/soak/*.ts', 'apps/*/test/soak/*.ts'], { cwd: repository })) files.set(basename(file, '.ts'), join(repository, file))
const names = [...files.keys()].sort()
const usage = `npm run soak -- <name>… [--short]

Long runs that npm test does not do; each is bounded in count and time. --short is the form for CI; --list prints the names.
Names: ${names.join(', ')}
`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { short: { type: 'boolean', default: false }, list: { type: 'boolean', default: false }, help: { type: 'boolean', short: 'h', default: false } },
})

const print = (line: string): void => void process.stdout.write(`${line}\n`)

if (values.help) {
  print(usage)
} else if (values.list) {
  print(names.join('\n'))
} else if (positionals.length === 0 || positionals.some((name) => !names.includes(name))) {
  process.stderr.write(usage)
  process.exitCode = 2
} else {
  for (const name of positionals) {
    const started = performance.now()
    const { soak } = (await import(files.get(name) ?? '')) as { readonly soak: Soak }
    try {
      await soak({ short: values.short, print: (line) => print(`${name}: ${line}`) })
      print(`${name}: passed in ${Math.round((performance.now() - started) / 1000)} s`)
    } catch (error) {
      process.stderr.write(`${name}: FAILED: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
      process.exitCode = 1
    }
  }
}
