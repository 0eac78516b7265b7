#!/usr/bin/env node
import { asksForHelp, exits, UsageProblem, WorkRefused, type Command, type Io } from './cli/io.ts'
import { ConfigProblem } from './config.ts'
import { Refusal } from './errors.ts'

/** A command is a file in cli/ and a row here; it is loaded only when it runs. */
export const commands: readonly Command[] = [
  { name: 'audit', summary: 'verify the audit record against its anchors; resume it after a restore', run: async (...given) => (await import('./cli/audit.ts')).run(...given) },
  { name: 'config check', summary: 'would the app start with this environment?', run: async (...given) => (await import('./cli/config-check.ts')).run(...given) },
  { name: 'config sample', summary: 'the names of all settings, without values', run: async (...given) => (await import('./cli/config-sample.ts')).run(...given) },
  { name: 'db check', summary: 'does the database keep the guarantees?', run: async (...given) => (await import('./cli/db.ts')).check(...given) },
  { name: 'db roles', summary: 'the SQL that makes the roles of the app', run: async (...given) => (await import('./cli/db.ts')).roles(...given) },
  { name: 'keys', summary: 'status, rotation, retirement, move and backup of keys', run: async (...given) => (await import('./cli/keys.ts')).run(...given) },
  { name: 'keys usage', summary: 'who used which key, and how often', run: async (...given) => (await import('./cli/keys-usage.ts')).run(...given) },
  { name: 'migrate', summary: 'bring the database to the state of the SQL files', run: async (...given) => (await import('./cli/migrate.ts')).run(...given) },
  { name: 'probe', summary: 'what a deployment shows of TLS, headers and origins to somebody outside', run: async (...given) => (await import('./cli/probe.ts')).run(...given) },
  { name: 'reencrypt', summary: 're-encrypt, import, verify or wipe sealed columns while the service works', run: async (...given) => (await import('./cli/reencrypt.ts')).run(...given) },
  { name: 'tables', summary: 'what the app declares of its data', run: async (...given) => (await import('./cli/tables.ts')).run(...given) },
]

function listed(some: readonly Command[]): string {
  const width = Math.max(...some.map(({ name }) => name.length))
  return some.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}\n`).join('')
}

function usage(): string {
  return `redoubt <command> [options]\n\n${listed(commands)}\nredoubt <command> --help tells more.\n\nexit codes: 0 ok, 1 a check failed or the work was refused, 2 wrong usage\n`
}

/** The command whose name the words begin with, the longest first. */
function find(words: readonly string[]): { readonly command: Command; readonly args: readonly string[] } | null {
  for (const count of [2, 1]) {
    const name = words.slice(0, count).join(' ')
    const command = commands.find((one) => one.name === name)
    if (command !== undefined) return { command, args: words.slice(count) }
  }
  return null
}

/**
 * Runs one command line.
 * @param words what follows `redoubt`
 * @returns the exit code: 0 ok, 1 a check failed or the work was refused, 2 wrong usage
 */
export async function dispatch(words: readonly string[], io: Io): Promise<number> {
  // `help keys` is `keys --help`.
  if (words[0] === 'help' && words.length > 1) return dispatch([...words.slice(1), '--help'], io)
  if (words.length === 0 || ['help', '--help', '-h'].includes(words[0] ?? '')) {
    ;(words.length === 0 ? io.err : io.out)(usage())
    return words.length === 0 ? exits.usage : exits.ok
  }
  const found = find(words)
  if (found === null) {
    const [group = '', ...rest] = words
    const below = commands.filter(({ name }) => name.startsWith(`${group} `))
    if (below.length > 0 && rest.length > 0 && rest.every((word) => asksForHelp([word]))) {
      io.out(`redoubt ${group} <command> [options]\n\n${listed(below)}\nredoubt ${group} <command> --help tells more.\n`)
      return exits.ok
    }
    io.err(below.length > 0 && rest.length === 0 ? `redoubt ${group}: say which\n\n${listed(below)}` : `redoubt: there is no command ${words.slice(0, 2).join(' ')}\n\n${usage()}`)
    return exits.usage
  }
  try {
    return await found.command.run(found.args, io)
  } catch (error) {
    const text = inWords(error)
    if (text === undefined) throw error
    io.err(`redoubt ${found.command.name}: ${text}\n`)
    return error instanceof UsageProblem ? exits.usage : exits.failed
  }
}

/** What a person can act on without a stack; undefined for what nobody planned for. */
function inWords(error: unknown): string | undefined {
  if (error instanceof UsageProblem || error instanceof WorkRefused || error instanceof ConfigProblem) return error.message
  return error instanceof Refusal ? (error.detail ?? error.message) : undefined
}

if (import.meta.main) {
  // `redoubt tables | head` closes the pipe early; that is no failure.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
    process.exit(exits.ok)
  })
  // npm runs scripts in the folder of package.json; INIT_CWD is where the person is.
  process.exitCode = await dispatch(process.argv.slice(2), {
    env: process.env,
    cwd: process.env['INIT_CWD'] ?? process.cwd(),
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
    terminal: process.stderr.isTTY,
  })
}
