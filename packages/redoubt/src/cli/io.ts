/** What a command gets from the process; a test gives it another. */
export type Io = {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Directory that paths on the command line start from. */
  readonly cwd: string
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  /** Whether a person watches `err`; progress is drawn there then. */
  readonly terminal?: boolean
}

/** Exit codes of every command. */
export const exits = { ok: 0, failed: 1, usage: 2 } as const

export type Command = {
  /** One or two words, as typed: `config check`. */
  readonly name: string
  /** One line for `redoubt --help`. */
  readonly summary: string
  /** @returns the exit code */
  readonly run: (args: readonly string[], io: Io) => Promise<number>
}

/** The command line is wrong; the dispatcher prints the message and exits with 2. */
export class UsageProblem extends TypeError {
  override readonly name = 'UsageProblem'
}

/** The world said no, in words for the person at the terminal; the dispatcher prints them and exits with 1. */
export class WorkRefused extends Error {
  override readonly name = 'WorkRefused'
}

export function asksForHelp(args: readonly string[]): boolean {
  return args.includes('--help') || args.includes('-h')
}

/** A number and what it counts: `1 line`, `2 lines`. @param many where it is more than `one` and an s */
export function counted(count: number | bigint, one: string, many = `${one}s`): string {
  return `${count} ${BigInt(count) === 1n ? one : many}`
}

/** Rows under a heading, columns padded to their widest cell. */
export function aligned(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [heading, ...rows]
  const widths = heading.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  return all.map((row) => `${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd()}\n`).join('')
}
