import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFile, stat } from 'node:fs/promises'
import { after, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openKeyService } from '../src/kms.ts'
import { secretFolder } from './support/keys.ts'

const folder = await secretFolder()
after(() => folder.remove())
const root = `${folder.path}/root.key`
await openKeyService(`local:${root}`, { production: false, create: true, dataExists: () => Promise.resolve(false) })

const cli = fileURLToPath(new URL('../src/cli.ts', import.meta.url))

function keys(args: readonly string[], env: Record<string, string> = {}): Promise<{ readonly code: number; readonly out: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [cli, 'keys', ...args], { env: { PATH: process.env['PATH'], NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'], ...env } }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), out: stdout + stderr })
    })
  })
}

test('redoubt keys backup copies the root key once, 0600, and says nothing of its bytes', async () => {
  const bytes = await readFile(root)
  const { code, out } = await keys(['backup', `${folder.path}/copy`], { KMS: `local:${root}` })
  assert.equal(code, 0, out)
  assert.deepEqual(await readFile(`${folder.path}/copy`), bytes)
  assert.equal((await stat(`${folder.path}/copy`)).mode & 0o777, 0o600)
  assert.ok(!out.includes(bytes.subarray(16).toString('hex')) && !out.includes(bytes.subarray(16).toString('base64')))
  const again = await keys(['backup', `${folder.path}/copy`, '--root', root])
  assert.equal(again.code, 1)
  assert.match(again.out, /exists already/)
})

test('redoubt keys explains itself: help 0, wrong usage 2', async () => {
  for (const command of [[], ['status'], ['rotate'], ['retire'], ['move'], ['backup']]) {
    const { code, out } = await keys([...command, '--help'])
    assert.equal(code, 0)
    assert.ok(out.startsWith(`redoubt keys ${command[0] ?? '<command>'}`), out)
  }
  for (const args of [[], ['backup'], ['restore', 'x'], ['rotate'], ['rotate', 'data', 'x'], ['retire'], ['status', 'x'], ['move'], ['rotate', 'root', '--before', '2026-01-01'], ['rotate', 'data', '--before', 'soon'], ['backup', 'x', 'y'], ['backup', 'x', '--odd'], ['backup', 'x']]) assert.equal((await keys(args)).code, 2, args.join(' '))
})
