import { existsSync, readdirSync } from 'node:fs'
import { spawnSync } from 'node:child_process'

const parts = new Set(['run', 'rounds'])
const benches = readdirSync(import.meta.dirname)
  .filter((file) => file.endsWith('.ts'))
  .map((file) => file.slice(0, -3))
  .filter((name) => !parts.has(name))
  .sort()
const [name, ...rest] = process.argv.slice(2)

if (name === undefined || name === '--help') {
  process.stdout.write(`npm run bench -- <name>\n\n${benches.map((bench) => `  ${bench}`).join('\n')}\n\nexit codes: 0 done and every goal met, 1 a goal or check failed, 2 no such bench\n`)
} else if (!/^[a-z][a-z-]*$/.test(name) || !benches.includes(name) || !existsSync(`${import.meta.dirname}/${name}.ts`)) {
  process.stderr.write(`bench: no bench of that name; there are: ${benches.join(', ')}\n`)
  process.exitCode = 2
} else {
  // A process of its own, so that no bench inherits another's compiled code or garbage.
  const { status } = spawnSync(process.execPath, [`${import.meta.dirname}/${name}.ts`, ...rest], { stdio: 'inherit' })
  process.exitCode = status ?? 1
}
