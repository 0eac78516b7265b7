import { spawn } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { Refusal } from '../../errors.ts'

/** The account a child runs under; absent: our own. */
export type Identity = { readonly uid: number; readonly gid: number }

export type Ran = { readonly code: number; readonly output: string }

/**
 * A child gets nothing of our environment: a stray PGDATA, PGOPTIONS or LD_PRELOAD of the shell must not steer the
 * server. Windows cannot load its own libraries without SystemRoot.
 */
export function bareEnvironment(): NodeJS.ProcessEnv {
  const base = { PATH: process.env['PATH'] ?? '', LC_ALL: 'C', TZ: 'UTC' }
  if (process.platform !== 'win32') return base
  return { ...base, SystemRoot: process.env['SystemRoot'], TEMP: process.env['TEMP'] }
}

/**
 * Runs a program to its end.
 * @param output 'kept' reads what it writes; 'dropped' for pg_ctl start, whose server would hold a pipe open for ever
 * @returns its exit code (126 when it could not be run at all) and the last of what it wrote
 */
export function run(
  program: string,
  args: readonly string[],
  options: { readonly identity: Identity | undefined; readonly cwd: string; readonly output: 'kept' | 'dropped' },
): Promise<Ran> {
  const written = options.output === 'kept' ? 'pipe' : 'ignore'
  return new Promise((resolve) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: bareEnvironment(),
      stdio: ['ignore', written, written],
      windowsHide: true,
      ...options.identity,
    })
    let output = ''
    const keep = (chunk: Buffer): void => {
      output = (output + chunk.toString('utf8')).slice(-4000)
    }
    child.stdout?.on('data', keep)
    child.stderr?.on('data', keep)
    child.once('error', (error: NodeJS.ErrnoException) => resolve({ code: 126, output: error.code ?? 'not started' }))
    child.once(options.output === 'kept' ? 'close' : 'exit', (code: number | null) => resolve({ code: code ?? 1, output }))
  })
}

/**
 * The command line of a process, or '' when there is none with this id (a zombie has none either).
 * Ids are reused, so nothing is believed about a process, or sent to it, by its id alone.
 * @throws Refusal internal when the system does not tell: to take a live server for a dead one would end it
 */
export async function commandOf(pid: number): Promise<string> {
  if (!Number.isSafeInteger(pid) || pid < 2) return ''
  if (process.platform === 'linux') {
    const text = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT' || error.code === 'ESRCH') return ''
      throw error
    })
    return text.replaceAll('\0', ' ').trim()
  }
  const query = `(Get-CimInstance Win32_Process -Filter 'ProcessId=${pid}').CommandLine`
  const [tool, args] =
    process.platform === 'win32'
      ? ['powershell.exe', ['-NoProfile', '-NonInteractive', '-Command', query]]
      : ['ps', ['-ww', '-o', 'stat=,command=', '-p', String(pid)]]
  const { code, output } = await run(tool, args, { identity: undefined, cwd: process.cwd(), output: 'kept' })
  if (code === 126) throw new Refusal('internal', { detail: `${tool} is needed to tell processes apart and cannot be run` })
  if (process.platform === 'win32') return output.trim()
  const [state = '', ...command] = output.trim().split(/\s+/)
  return state.startsWith('Z') ? '' : command.join(' ')
}
