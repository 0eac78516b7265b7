import { spawn, type ChildProcess } from 'node:child_process'
import { existsSync, globSync } from 'node:fs'
import { connect } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { freePort } from './port.ts'

/** Where `.ci/emulators` puts what stands in for the clouds. */
const folder = process.env['REDOUBT_EMULATORS'] ?? join(import.meta.dirname, '../../../../.redoubt/emulators')
const motoServer = join(folder, 'moto/bin/moto_server')

function lowkeyJar(): string | undefined {
  return globSync(join(folder, 'lowkey-vault-app-*.jar'))[0]
}

/** Why the tests of a real client against a double of AWS cannot run here, or undefined. */
export const motoMissing = existsSync(motoServer) ? undefined : 'moto is not installed: bash .ci/emulators'
export const lowkeyMissing = lowkeyJar() === undefined ? 'Lowkey Vault is not installed: bash .ci/emulators' : undefined

export type Emulator = { readonly origin: string; stop(): Promise<void> }

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1')
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

/** Runs until it listens; ended by its own process id, also when the test process ends. */
async function started(child: ChildProcess, port: number, seconds: number): Promise<() => Promise<void>> {
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
  const kill = (): void => void child.kill('SIGKILL')
  process.once('exit', kill)
  let output = ''
  child.stderr?.on('data', (chunk: Buffer) => void (output = (output + chunk.toString()).slice(-4_000)))
  child.stdout?.on('data', (chunk: Buffer) => void (output = (output + chunk.toString()).slice(-4_000)))
  for (const end = Date.now() + seconds * 1000; !(await answers(port)); await pause(100)) {
    if (child.exitCode !== null || Date.now() > end) {
      kill()
      throw new Error(`${child.spawnfile} did not start: ${output}`)
    }
  }
  return async () => {
    process.off('exit', kill)
    child.kill('SIGTERM')
    const late = setTimeout(kill, 3_000)
    await gone
    clearTimeout(late)
  }
}

/** moto's server, which answers the AWS SDK. */
export async function startMoto(): Promise<Emulator> {
  const port = await freePort()
  const child = spawn(motoServer, ['-H', '127.0.0.1', '-p', String(port)], { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, AWS_DEFAULT_REGION: 'eu-central-1' } })
  const stop = await started(child, port, 90)
  return { origin: `http://127.0.0.1:${port}`, stop }
}

/** The certificate a server of this machine signs itself with, as PEM: whoever answers there was started by us. */
function certificateAt(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({ host: '127.0.0.1', port, rejectUnauthorized: false }, () => {
      const { raw } = socket.getPeerCertificate()
      socket.destroy()
      resolve(`-----BEGIN CERTIFICATE-----\n${(raw.toString('base64').match(/.{1,64}/g) ?? []).join('\n')}\n-----END CERTIFICATE-----\n`)
    })
    socket.once('error', reject)
  })
}

export type Lowkey = Emulator & { readonly ca: string; readonly identity: { readonly IDENTITY_ENDPOINT: string; readonly IDENTITY_HEADER: string } }

/** Lowkey Vault, which answers the SDK of Azure Key Vault, with its endpoint for tokens of managed identities. */
export async function startLowkey(): Promise<Lowkey> {
  const [port, tokenPort] = [await freePort(), await freePort()]
  const given = ['-Xmx256m', '-jar', lowkeyJar() ?? '', `--server.port=${port}`, `--app.token.port=${tokenPort}`, '--LOWKEY_VAULT_NAMES=redoubt', '--LOWKEY_VAULT_RELAXED_PORTS=true']
  const child = spawn('java', given, { stdio: ['ignore', 'pipe', 'pipe'] })
  const stop = await started(child, port, 120)
  return {
    origin: `https://localhost:${port}`,
    ca: await certificateAt(port),
    identity: { IDENTITY_ENDPOINT: `http://127.0.0.1:${tokenPort}/metadata/identity/oauth2/token`, IDENTITY_HEADER: 'header' },
    stop,
  }
}
