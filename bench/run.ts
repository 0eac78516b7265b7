import { readdirSync } from 'node:fs'
import { join } from 'node:path'

/** A bench is a file beside this one that exports `run`; these are parts of benches. */
const parts = new Set(['run', 'rounds', 'database', 'delay-proxy'])
const benches = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.slice(0, -3))
  .filter((name) => !parts.has(name))
  .sort()
const [name, part] = process.argv.slice(2)

if (name === undefined || name === '--help') {
  process.stdout.write(`npm run bench -- <name> [<part of it>]\n\n${benches.map((bench) => `  ${bench}`).join('\n')}\n\nexit codes: 0 done and every check held, 1 a check failed, 2 no such bench\n`)
} else if (!benches.includes(name)) {
  process.stderr.write(`bench: no bench of that name; there are: ${benches.join(', ')}\n`)
  process.exitCode = 2
} else {
  const bench = (await import(join(import.meta.dirname, `${name}.ts`))) as { readonly run: (part?: string) => Promise<void> }
  await bench.run(part)
}
