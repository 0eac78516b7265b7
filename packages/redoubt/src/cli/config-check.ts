import { readFileSync } from 'node:fs'
import { describe, modeOf, type Found } from '../config.ts'
import { appOptions, settingsOf } from './app.ts'
import { aligned, asksForHelp, exits, UsageProblem, type Io } from './io.ts'

const usage = `redoubt config check --app <folder> [--mode production|development|test]

Reads the environment as the app would (NAME, or the file NAME_FILE points to) and prints for each setting where it
comes from, its class, owner and rotation period, and what is wrong with it. Never prints a value.

  --mode   check as if in this mode; by default NODE_ENV, and production where that is not set
`

function rowOf({ name, setting, source, problem }: Found): readonly string[] {
  const rotation = setting.rotateDays === null ? '-' : `${setting.rotateDays} days`
  return [name, source === 'absent' ? 'not set' : source, setting.class, setting.owner, rotation, problem ?? 'ok']
}

/** `redoubt config check`: 0 when the app would start with this environment, 1 when it would refuse. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { app, more } = appOptions(args, ['mode'])
  const wanted = more['mode']
  if (wanted !== undefined && !['production', 'development', 'test'].includes(wanted)) {
    throw new UsageProblem('--mode must be production, development or test')
  }
  const env = wanted === undefined ? io.env : { ...io.env, NODE_ENV: wanted }
  const mode = modeOf(env)
  const found = describe(await settingsOf(io, app), { env, mode, readFile: (path) => readFileSync(path, 'utf8') })
  io.out(aligned(['setting', 'from', 'class', 'owner', 'rotation', mode], found.settings.map(rowOf)))
  const problems = [...found.settings.filter(({ problem }) => problem !== null), ...found.others]
  if (found.others.length > 0) io.out(`\n${aligned(['variable', 'problem'], found.others.map(({ name, problem }) => [name, problem]))}`)
  io.out(problems.length === 0 ? '\nok: the app would start\n' : `\nrefused: ${problems.length} problem${problems.length === 1 ? '' : 's'}\n`)
  return problems.length === 0 ? exits.ok : exits.failed
}
