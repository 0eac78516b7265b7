import { readFileSync } from 'node:fs'

const everyMilliseconds = 500

/** The parent of a process and its command line, where the system tells (Linux); undefined elsewhere, or once it is gone. */
function look(pid: number): { readonly parent: number; readonly command: readonly string[] } | undefined {
  try {
    // The name in brackets may itself hold spaces and brackets.
    const after = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '')
    return { parent: Number(after.split(' ')[1]), command: readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0') }
  } catch {
    return undefined
  }
}

/**
 * Calls `gone` once when the npm that runs this script is no more. npm puts a shell in between: SIGTERM to npm ends that
 * shell alone, kill -9 ends npm alone, and what it started would live on unseen and keep its port. Not run by npm,
 * nothing is watched: with nohup or setsid a process outlives its parent on purpose.
 */
export function onOrphaned(gone: () => void): void {
  if (process.env['npm_lifecycle_event'] === undefined) return
  const parent = process.ppid
  const seen = look(parent)
  // Some shells become the script instead of waiting for it; then the parent is npm itself, and its parent is not our concern.
  const shell = seen?.command[1] === '-c' ? seen : undefined
  const timer = setInterval(() => {
    if (process.ppid === parent && (shell === undefined || look(parent)?.parent === shell.parent)) return
    clearInterval(timer)
    gone()
  }, everyMilliseconds).unref()
}
