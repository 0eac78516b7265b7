import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { request } from 'node:http'
import { createServer } from 'node:https'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { openClinic } from './support/clinic.ts'

const folder = process.env['REDOUBT_OBSERVATORY'] ?? ''
const skip = folder === '' && 'REDOUBT_OBSERVATORY names no folder made by .ci/observatory'
/** It asks port 443 of the host it is given, and nothing else. */
const scan = "import { scan } from '@mdn/mdn-http-observatory'; const { scan: { grade, testsFailed } } = await scan('localhost'); console.log(JSON.stringify({ grade, testsFailed }))"

test("Mozilla's Observatory grades the pages A+, behind a proxy that speaks TLS", { skip }, async (t) => {
  const clinic = await openClinic({ settings: { publicOrigin: 'https://localhost', trustedProxies: ['127.0.0.1'], controls: { https: 'enforce' } } })
  const { port } = new URL(clinic.address)
  const cert = join(folder, 'cert.pem')
  const proxy = createServer({ key: readFileSync(join(folder, 'key.pem')), cert: readFileSync(cert) }, (req, res) => {
    const headers = { ...req.headers, 'x-forwarded-proto': 'https', 'x-forwarded-for': '203.0.113.7' }
    req.pipe(request({ host: '127.0.0.1', port, path: req.url, method: req.method, headers }, (from) => from.pipe(res.writeHead(from.statusCode ?? 500, from.headers))))
  })
  await new Promise<void>((resolve, reject) => proxy.once('error', reject).listen(443, '127.0.0.1', resolve))
  t.after(() => (proxy.closeAllConnections(), proxy.close()))
  const env = { PATH: process.env['PATH'], NODE_EXTRA_CA_CERTS: cert }
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', scan], { cwd: folder, env, timeout: 60_000 })
  assert.deepEqual(JSON.parse(stdout), { grade: 'A+', testsFailed: 0 })
})
