import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { request as plainRequest, type IncomingHttpHeaders } from 'node:http'
import { request as tlsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { setTimeout as pause } from 'node:timers/promises'
import { connect } from 'node:tls'
import { selfSigned } from '../../../packages/redoubt/test/support/certificate.ts'
import { freePort } from '../../../packages/redoubt/test/support/port.ts'
import { dispatch } from '../../../packages/redoubt/src/cli.ts'
import { repository } from '../src/sources.ts'
import { openClinic } from './support/clinic.ts'

const program = ['/usr/sbin/nginx', '/usr/bin/nginx', '/opt/homebrew/bin/nginx'].find((path) => existsSync(path))
const skip = program === undefined && 'no nginx on this machine (Debian: apt-get install nginx-light)'
const { key, cert } = selfSigned()

type Got = { readonly status: number; readonly headers: IncomingHttpHeaders; readonly text: string }
type Asked = { readonly headers?: Readonly<Record<string, string>>; readonly body?: string; readonly secure?: boolean; readonly host?: string }
type Front = { readonly folder: string; readonly https: string; readonly http: string; ask(method: string, path: string, asked?: Asked): Promise<Got>; wire(bytes: string): Promise<string> }

/** nginx with deploy/nginx.conf, its names, ports and files replaced, in front of the service at this port. */
async function startProxy(back: string, change: (conf: string) => string = (conf) => conf): Promise<Front> {
  const folder = await mkdtemp(join(tmpdir(), 'proxy-'))
  const [http, https] = [await freePort(), await freePort()]
  for (const [file, text] of [['key.pem', key], ['cert.pem', cert]] as const) await writeFile(join(folder, file), text)
  const replaced = (await readFile(join(repository, 'deploy/nginx.conf'), 'utf8'))
    .replaceAll('therapy.example', 'localhost').replace('127.0.0.1:3000', back).replaceAll('listen 80', `listen 127.0.0.1:${http}`).replaceAll('listen 443', `listen 127.0.0.1:${https}`)
    .replace('/etc/ssl/therapy/fullchain.pem', join(folder, 'cert.pem')).replace('/etc/ssl/therapy/key.pem', join(folder, 'key.pem'))
  await writeFile(join(folder, 'site.conf'), change(replaced))
  const places = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
  for (const place of places) await mkdir(join(folder, place), { mode: 0o777 })
  const own = process.getuid?.() === 0 ? 'user root;' : ''
  await writeFile(join(folder, 'nginx.conf'), `${own} daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/error.log; events {} http { access_log off; ${places.map((place) => `${place}_temp_path ${folder}/${place};`).join(' ')} include ${folder}/site.conf; }`)
  const child = spawn(program ?? '', ['-p', folder, '-e', join(folder, 'error.log'), '-c', join(folder, 'nginx.conf')], { stdio: 'ignore' })
  const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  after(async () => {
    child.kill('SIGQUIT')
    await ended
    await rm(folder, { recursive: true })
  })
  const front: Front = {
    folder, https: `https://localhost:${https}`, http: `http://localhost:${http}`,
    ask: (method, path, { headers = {}, body, secure = true, host = 'localhost' } = {}) => new Promise((resolve, reject) => {
      // From an address of its own: behind 127.0.0.1, which is trusted, the service would look further left.
      const options = { host: '127.0.0.1', localAddress: '127.0.0.2', port: secure ? https : http, method, path, agent: false, headers: { host, ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) }), ...headers } }
      const req = (secure ? tlsRequest({ ...options, ca: cert, servername: host }) : plainRequest(options)).once('response', (res) => {
        const chunks: Buffer[] = []
        res.on('data', (chunk: Buffer) => chunks.push(chunk))
        res.on('end', () => resolve({ status: res.statusCode ?? 0, headers: res.headers, text: Buffer.concat(chunks).toString() }))
      })
      req.on('error', reject)
      req.end(body)
    }),
    wire: (bytes) => new Promise((resolve, reject) => {
      const socket = connect({ host: '127.0.0.1', port: https, ca: cert, servername: 'localhost' }, () => void socket.write(bytes, 'latin1'))
      let text = ''
      socket.setEncoding('latin1').on('data', (chunk: string) => (text += chunk))
      socket.on('close', () => resolve(text))
      socket.on('error', (error: NodeJS.ErrnoException) => (error.code === 'ECONNRESET' ? resolve(text) : reject(error)))
    }),
  }
  for (const until = Date.now() + 20_000; ; await pause(50)) {
    if (await front.ask('GET', '/sign-in').then(() => true, () => false)) return front
    if (child.exitCode !== null || Date.now() > until) throw new Error(`nginx did not start: ${await readFile(join(folder, 'error.log'), 'utf8').catch(() => '')}`)
  }
}

test('behind nginx with deploy/nginx.conf: TLS, addresses, paths and sizes are what the service takes them for', { skip }, async () => {
  const clinic = await openClinic({ settings: { trustedProxies: ['127.0.0.1'], publicOrigin: 'https://localhost', controls: { https: 'enforce' } } })
  const { email, password } = await (await openClinic({ database: clinic.database, settings: { kms: clinic.kms } })).patient()
  const { ask, wire } = await startProxy(new URL(clinic.address).host)

  const page = await ask('GET', '/sign-in')
  assert.deepEqual([page.status, page.headers['strict-transport-security'], page.headers['x-powered-by']], [200, 'max-age=31536000', undefined])
  assert.equal(page.headers.server, 'nginx', 'without a version')
  const plain = await ask('GET', '/sign-in', { secure: false })
  assert.deepEqual([plain.status, plain.headers.location], [308, 'https://localhost/sign-in'])
  assert.equal((await ask('GET', '/api/auth/me', { secure: false })).status, 421)

  // attack: the client says itself who it is, that it came by TLS, and under which id.
  const forged = { 'x-forwarded-for': '6.6.6.6', 'x-forwarded-proto': 'https', 'x-request-id': 'chosen-by-the-client', forwarded: 'for=6.6.6.6;proto=https' }
  assert.equal((await ask('GET', '/api/auth/me', { secure: false, headers: forged })).status, 421)
  const login = await ask('POST', '/api/auth/login', { headers: forged, body: JSON.stringify({ email, password }) })
  assert.equal(login.status, 200, login.text)
  assert.match(String(login.headers['x-request-id']), /^[0-9a-f]{32}$/)
  const { access_token: token } = JSON.parse(login.text) as { readonly access_token: string }
  const sessions = await ask('GET', '/api/auth/sessions', { headers: { authorization: `Bearer ${token}`, ...forged } })
  assert.ok(sessions.text.includes('127.0.0.0/24') && !sessions.text.includes('6.6.6'), sessions.text)

  for (const [path, status] of [['//sign-in', 400], ['/api/./auth/me', 400], ['/api/%61uth/me', 404], ['/x/../sign-in', 400], ['/health/ready', 404]] as const) assert.equal((await ask('GET', path)).status, status, path)
  assert.equal((await ask('POST', '/api/auth/login', { body: JSON.stringify({ email, password: 'x'.repeat(200_000) }) })).status, 413)
  await assert.rejects(ask('GET', '/sign-in', { host: 'evil.test' }), 'no answer under another name')

  // attack: two lengths; nginx ends it, and nothing behind it is answered.
  const inner = 'GET /.well-known/jwks.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
  for (const framing of ['Content-Length: 5\r\nTransfer-Encoding: chunked', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: x', 'Content-Length: 5\r\nContent-Length: 6', 'Transfer-Encoding: \x0bchunked']) {
    const text = await wire(`POST /api/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n${framing}\r\n\r\n0\r\n\r\n${inner}`)
    assert.ok(!text.includes('"keys"') && !/HTTP\/1\.1 200/.test(text), `${framing}: ${text.slice(0, 300)}`)
  }
})

test('redoubt probe, from outside: behind deploy/nginx.conf nothing is wrong but what production alone closes, and each thing that is taken away is told', { skip }, async () => {
  const clinic = await openClinic({ settings: { trustedProxies: ['127.0.0.1'], publicOrigin: 'https://localhost', controls: { https: 'enforce' } } })
  const right = await startProxy(new URL(clinic.address).host)
  const probed = async ({ folder, https, http }: Front, ...more: readonly string[]): Promise<readonly [number, string]> => {
    let text = ''
    const code = await dispatch(['probe', https, '--plain', http, '--ca', join(folder, 'cert.pem'), ...more], { env: {}, cwd: folder, out: (part) => (text += part), err: (part) => (text += part) })
    return [code, text]
  }
  const [code, told] = await probed(right)
  // Not production: the document of the API is served, which the probe must see.
  assert.equal(code, 1, told)
  assert.deepEqual(told.split('\n').filter((line) => line.startsWith('WRONG')).map((line) => line.replaceAll(/ +/g, ' ')), ['WRONG /openapi.json is not for outside 200'])
  assert.match((await probed(right, '--all'))[1], /^ok +TLS 1\.1 and older are refused +refused$/m)

  const careless = await startProxy(new URL(clinic.address).host, (conf) => conf
    .replace('ssl_protocols TLSv1.2 TLSv1.3;', 'ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3; ssl_ciphers DEFAULT@SECLEVEL=0;').replace('server_tokens off;', 'add_header Access-Control-Allow-Origin * always; proxy_hide_header Strict-Transport-Security; proxy_hide_header X-Frame-Options;')
    .replace('proxy_set_header X-Forwarded-Proto $scheme;', 'proxy_set_header X-Forwarded-Proto https;').replace('return 404;', 'proxy_pass http://therapy;'))
  const [bad, wrongs] = await probed(careless)
  assert.equal(bad, 1)
  for (const told of [/TLS 1\.1 and older are refused +spoken/, /page: server .* nginx\/1/, /page: strict-transport-security/, /API: x-frame-options/, /API: access-control-allow-origin .*\*/, /in clear: GET \/api\/auth\/me is refused, not redirected +401/, /in clear: a page leads .* 200/, /\/health\/ready is not for outside +200/, /GET from https:\/\/evil\.example +403, allowed: \*/]) assert.match(wrongs, told)

  const nobody = await probed({ ...right, https: 'https://localhost:1', http: 'http://localhost:1' })
  assert.deepEqual([nobody[0], /TLS 1\.2 or 1\.3, with a certificate for this name +no connection/.test(nobody[1])], [1, true])
  for (const words of [[], ['http://localhost'], ['https://localhost/path'], ['https://a', 'https://b'], ['https://a', '--page', 'x'], ['https://a', '--nothing']]) {
    assert.equal(await dispatch(['probe', ...words], { env: {}, cwd: right.folder, out: () => undefined, err: () => undefined }), 2, words.join(' '))
  }
})
