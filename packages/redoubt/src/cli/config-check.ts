import { readFileSync } from 'node:fs'
import { describe, modeOf, type Found, type Problem } from '../config.ts'
import { appOptions, settingsOf } from './app.ts'
import { aligned, asksForHelp, counted, exits, UsageProblem, type Io } from './io.ts'

const usage = `redoubt config check --app <folder> [--mode production|development|test]

Reads the environment as the app would (NAME, or the file NAME_FILE points to) and prints for each setting where it
comes from, its class, owner and rotation period, and what is wrong with it. Never prints a value.

  --mode   check as if in this mode; by default NODE_ENV, and production where that is not set
`

/** @param others problems of several settings together; those that name this one stand in its row too */
function rowOf({ name, setting, source, problem }: Found, others: readonly Problem[]): readonly string[] {
  const problems = [problem, ...others.filter((other) => other.name === name).map((other) => other.problem)].filter((each) => each !== null)
  const rotation = setting.rotateDays === null ? '-' : counted(setting.rotateDays, 'day')
  return [name, source === 'absent' ? 'not set' : source, setting.class, setting.owner, rotation, problems.length === 0 ? 'ok' : problems.join('; ')]
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
  io.out(`mode: ${mode}${wanted !== undefined ? ' (--mode)' : io.env['NODE_ENV'] === undefined ? ' (NODE_ENV is not set)' : ' (NODE_ENV)'}\n\n`)
  io.out(aligned(['setting', 'from', 'class', 'owner', 'rotation', 'problem'], found.settings.map((one) => rowOf(one, found.others))))
  const problems = [...found.settings.filter(({ problem }) => problem !== null), ...found.others]
  const strange = found.others.filter(({ name }) => !found.settings.some((one) => one.name === name))
  if (strange.length > 0) io.out(`\n${aligned(['variable', 'problem'], strange.map(({ name, problem }) => [name, problem]))}`)
  io.out(problems.length === 0 ? '\nok: the app would start\n' : `\nrefused: ${counted(problems.length, 'problem')}\n`)
  return problems.length === 0 ? exits.ok : exits.failed
}
