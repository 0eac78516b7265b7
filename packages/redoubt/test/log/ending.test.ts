import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { openSink } from '../../src/log.ts'

async function endingOf(...args: readonly string[]): Promise<{ readonly out: string; readonly code: number | null; readonly signal: string | null }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, '../support/log-process.ts'), ...args])
  let out = ''
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => void (out += chunk))
  if (args[0] === 'signal') child.stderr.once('data', () => child.kill('SIGTERM'))
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { out, code, signal }
}

for (const [ending, code, signal] of [['return', 0, null], ['close', 0, null], ['exit', 3, null], ['throw', 1, null], ['signal', null, 'SIGTERM']] as const) {
  test(`no line is lost when the process ends by ${ending}, and it ends as it would have`, async () => {
    const result = await endingOf(ending, '3000')
    assert.equal(result.out.split('\n').length - 1, 3000)
    assert.match(result.out, /"i":2999,/)
    assert.deepEqual([result.code, result.signal], [code, signal])
  })
}

test('SIGTERM leaves an app its own drain, whose lines arrive too', async () => {
  const result = await endingOf('signal', '10', 'drain')
  assert.match(result.out, /"msg":"drained"/)
  assert.equal(result.out.match(/"msg":"asked to stop"/g)?.length, 1)
  assert.deepEqual([result.code, result.signal], [0, null])
})

test('a file sink keeps order, long lines and everything before a flush; a broken one counts what it lost', () => {
  const folder = mkdtempSync(join(tmpdir(), 'redoubt-log-'))
  const path = join(folder, 'a.log')
  const sink = openSink(path)
  const lines = Array.from({ length: 300 }, (_, i) => `${i}${i % 50 === 0 ? 'é🙂'.repeat(30_000) : ''}\n`)
  for (const line of lines) sink.write(line)
  sink.flush()
  assert.equal(readFileSync(path, 'utf8'), lines.join(''))
  sink.close()
  rmSync(folder, { recursive: true })
  const broken = openSink(987_654)
  broken.write('x\n')
  broken.flush()
  assert.equal(broken.lost, 1)
})
