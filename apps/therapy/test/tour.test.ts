import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { promisify } from 'node:util'
import { removeEmbedded } from 'redoubt/cli/embedded'
import { freePort } from '../../../packages/redoubt/test/support/port.ts'

const repository = join(import.meta.dirname, '../../..')

/** The shell blocks of the tour, as one script; only address and folder are put in. */
async function tourScript(port: number, home: string): Promise<string> {
  const readme = await readFile(join(repository, 'README.md'), 'utf8')
  const tour = /^## A guided tour$([\s\S]*?)^## /m.exec(readme)?.[1] ?? ''
  const blocks = [...tour.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map((block) => block[1] ?? '')
  assert.ok(blocks.length >= 6, 'the tour has its blocks')
  assert.ok(!tour.includes('```\n```'), 'no block is empty')
  return blocks.join('\n').replaceAll('http://localhost:4310', `http://localhost:${port}`).replaceAll('./.redoubt/', `${home}/`).replaceAll('.redoubt/', `${home}/`)
}

test('the guided tour of the README does what it says', async () => {
  const home = await mkdtemp(join(tmpdir(), 'therapy-tour-'))
  const port = await freePort()
  const { DATABASE_URL: _, ...env } = process.env
  const child = spawn(process.execPath, [join(repository, 'apps/therapy/src/start.ts')], { env: { ...env, REDOUBT_HOME: home, PORT: String(port) }, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = new Promise((resolve) => child.once('exit', resolve))
  after(async () => {
    child.kill('SIGINT')
    await ended
    await removeEmbedded(join(home, 'postgres'))
    await rm(home, { recursive: true, force: true })
  })
  let said = ''
  await new Promise<void>((resolve, reject) => {
    const listen = (bytes: Buffer): void => {
      said += bytes.toString()
      if (said.includes('Ctrl-C stops')) resolve()
    }
    child.stdout.on('data', listen)
    child.stderr.on('data', listen)
    void ended.then(() => reject(new Error(`Therapy did not start:\n${said}`)))
  })

  // A newcomer's shell stops at nothing; here the first command that fails ends the tour.
  const script = await tourScript(port, home)
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script], { cwd: repository, timeout: 60_000 })
  const told = stdout.trim().split('\n')
  assert.match(stdout, /Aylin.*Jonas.*Mira/s, 'her patients')
  assert.equal(told.filter((line) => line === 'not_found').length, 3, 'forbidden, absent and unreleased look the same')
  const starts = told.filter((line) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:00\+\d\d:\d\d$/.test(line))
  assert.equal(starts.length, 2, stdout)
  assert.equal(starts[0], starts[1], 'booked once')
  assert.ok(told.includes('Walk by the river twice a week.'), 'released, he reads it')
  assert.match(stdout, /Dr\. Helene Brandt {2}\S+ {2}done/, 'he sees who read')
  assert.match(stdout, /^\S+Z {2}you {2}\S+ {2}done$/m, 'and what he read himself')
  assert.deepEqual(told.slice(told.indexOf('factor_required')).slice(0, 2), ['factor_required', 'patient'], 'a password alone opens nothing once there is a factor')
  assert.ok(told.includes('Nothing is wrong.'), stdout)
  assert.deepEqual(told.slice(-2), ['public profile: readable', 'message and record: not readable'])
})
