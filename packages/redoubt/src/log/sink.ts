import { closeSync, openSync, writeSync } from 'node:fs'

/** Where finished lines go. `write` takes a whole line with its line break. */
export type Sink = {
  write(line: string): void
  /** Everything given so far is with the operating system when it returns. */
  flush(): void
  close(): void
  /** Lines given up because the other end would not take them. */
  readonly lost: number
}

/** Bytes that are gathered before they are written: the capacity of a pipe, so that one write takes them. */
const batch = 65_536
/** Milliseconds a line may wait. */
const patience = 20
/** Milliseconds a reader may refuse to take anything before lines are given up: a dead collector must not hang the service. */
const mostStall = 2_000

const sleeper = new Int32Array(new SharedArrayBuffer(4))

function writeAll(fd: number, bytes: Uint8Array): boolean {
  let at = 0
  let stalled = 0
  while (at < bytes.length) {
    try {
      at += writeSync(fd, bytes, at)
      stalled = 0
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined
      // A pipe another library set to non-blocking answers EAGAIN while it is full.
      if (code !== 'EAGAIN' || stalled >= mostStall) return false
      stalled += 5
      Atomics.wait(sleeper, 0, 0, 5)
    }
  }
  return true
}

/**
 * Gathers lines and writes them in one blocking call, as Node itself does for stdout to a pipe or file. Nothing is
 * ever in flight in another thread, so that a flush is complete when it returns, at the end of the process too. Writing
 * into one buffer costs a third less than joining strings (measured: 1.0 against 1.5 µs for a line of 640 bytes).
 * @param target an open descriptor (1 is stdout), or the path of a file to append to
 * @throws the system's error when the file cannot be opened
 */
export function openSink(target: number | string): Sink {
  const fd = typeof target === 'number' ? target : openSync(target, 'a', 0o640)
  const pending = Buffer.allocUnsafeSlow(batch)
  let used = 0
  let lines = 0
  let lost = 0
  let reported = 0
  let timer: NodeJS.Timeout | undefined

  function give(bytes: Uint8Array, count: number): void {
    if (lost > reported) {
      const notice = { level: 'error', time: new Date().toISOString(), msg: 'log lines were lost', lines: lost - reported }
      if (writeAll(fd, Buffer.from(`${JSON.stringify(notice)}\n`))) reported = lost
    }
    if (!writeAll(fd, bytes)) lost += count
  }

  function flush(): void {
    clearTimeout(timer)
    timer = undefined
    if (used === 0) return
    const bytes = pending.subarray(0, used)
    const count = lines
    used = 0
    lines = 0
    give(bytes, count)
  }

  return {
    write(line) {
      // A character takes at most three bytes of UTF-8 (a pair of surrogates four).
      if (line.length * 3 > batch - used) flush()
      if (line.length * 3 > batch) return give(Buffer.from(line, 'utf8'), 1)
      used += pending.write(line, used, 'utf8')
      lines++
      timer ??= setTimeout(flush, patience).unref()
    },
    flush,
    close() {
      flush()
      if (typeof target === 'string') closeSync(fd)
    },
    get lost() {
      return lost
    },
  }
}
