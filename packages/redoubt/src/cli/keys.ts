import { asksForHelp, exits, UsageProblem, type Io } from './io.ts'
import { backup, usage as backupUsage } from './keys/backup.ts'
import { retire, usage as retireUsage } from './keys/retire.ts'
import { move, moveUsage, rotate, usage as rotateUsage } from './keys/rotate.ts'
import { status, usage as statusUsage } from './keys/status.ts'

type Below = { readonly about: string; readonly usage: string; readonly run: (args: readonly string[], io: Io) => Promise<number> }

const below: Readonly<Record<string, Below>> = {
  status: { about: 'every key, its versions, what depends on it, when to rotate it', usage: statusUsage, run: status },
  rotate: { about: 'the next version of a key, while the service runs', usage: rotateUsage, run: rotate },
  retire: { about: 'end old versions; refused while something depends on them', usage: retireUsage, run: retire },
  move: { about: 'to another key service', usage: moveUsage, run: move },
  backup: { about: 'copy the local root key file', usage: backupUsage, run: backup },
}

const usage = `redoubt keys <command>

${Object.entries(below).map(([name, { about }]) => `  ${name.padEnd(8)}  ${about}\n`).join('')}  usage     who used which key (redoubt keys usage --help)

redoubt keys <command> --help tells more.
Exit codes: 0 done, 1 refused or not finished, 2 wrong usage
`

/**
 * `redoubt keys …`.
 * @param args what follows `keys` on the command line
 * @returns the exit code: 0 done, 1 refused or not finished, 2 wrong usage
 */
export async function run(args: readonly string[], io: Io): Promise<number> {
  const [name = '', ...rest] = args
  const command = Object.hasOwn(below, name) ? below[name] : undefined
  if (asksForHelp(args)) {
    io.out(command?.usage ?? usage)
    return exits.ok
  }
  if (command === undefined) throw new UsageProblem(`say which: ${Object.keys(below).join(', ')}`)
  return command.run(rest, io)
}
