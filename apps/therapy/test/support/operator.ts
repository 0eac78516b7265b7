import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Send } from './clinic.ts'
import { protect } from './factors.ts'
import { until } from './starts.ts'

const repository = join(import.meta.dirname, '../../../..')

type Said = { readonly code: number; readonly out: string; readonly err: string }
export type Operator = {
  /** `npm run therapy` beside the running service, with what a terminal shows of it. */
  therapy(...words: readonly string[]): Promise<Said>
  /** A command of a runbook, as it stands there, with the person's address put in. */
  asWritten(runbook: string, command: RegExp, email: string): Promise<Said>
  /** The newest mail to an address of which its text says so, waited for. */
  mailTo(email: string, about: RegExp): Promise<string>
  /** An account of the administration, past its first steps, at the door of this origin. */
  administrator(origin: string, email: string, password: string, own: string): Promise<{ readonly id: string; readonly refresh: string; readonly recovery: readonly string[]; readonly send: Send }>
}

/** @param home folder of an npm start that runs */
export function operatorOf(home: string): Operator {
  const { DATABASE_URL: _, npm_lifecycle_event: __, ...rest } = process.env
  const env = { ...rest, REDOUBT_HOME: home, npm_config_update_notifier: 'false' }
  const shell = (program: string, args: readonly string[]): Promise<Said> =>
    new Promise((resolve) => void execFile(program, args, { env, cwd: repository }, (error, out, err) => resolve({ code: error === null ? 0 : Number(error.code), out, err })))
  return {
    therapy: (...words) => shell(process.execPath, [join(repository, 'apps/therapy/src/cli.ts'), ...words]),
    async asWritten(runbook, command, email) {
      const text = await readFile(join(repository, 'docs/runbooks', runbook), 'utf8')
      const line = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].flatMap(([, block = '']) => block.trim().split('\n')).find((each) => command.test(each))
      return shell('bash', ['-euc', (line ?? assert.fail(`${runbook} has no such command`)).replace('<e-mail>', email)])
    },
    async mailTo(email, about) {
      let found: string | undefined
      await until(`a mail to ${email}`, async () => {
        const names = (await readdir(join(home, 'mail')).catch(() => [])).filter((name) => name.endsWith('.eml'))
        const texts = await Promise.all(names.map((name) => readFile(join(home, 'mail', name), 'utf8')))
        found = texts.find((text) => text.includes(`To: <${email}>`) && about.test(text))
        return found !== undefined
      })
      return found ?? ''
    },
    async administrator(origin, email, password, own) {
      const by = (token?: string): Send => sender(origin, token)
      const login = (given: string) => by()('POST', '/api/auth/login', { email, password: given })
      const begun = await login(password)
      assert.deepEqual([begun.status, begun.body['role']], [200, 'enrolment'], begun.text)
      const first = by(String(begun.body['access_token']))
      assert.equal((await first('GET', '/api/admin/users')).status, 403)
      const id = String(begun.body['user_id'])
      assert.equal((await first('POST', '/api/auth/password', { old_password: password, password: own })).status, 200)
      const { recovery } = await protect({ id, email, password: own, token: '', send: first })
      const done = await by()('POST', '/api/auth/second-factor', { pending: (await login(own)).body['pending'], proof: { kind: 'recovery', code: recovery[0] } })
      assert.deepEqual([done.status, done.body['role']], [200, 'admin'], done.text)
      return { id, refresh: String(done.body['refresh_token']), recovery: recovery.slice(1), send: by(String(done.body['access_token'])) }
    },
  }
}

export function sender(origin: string, token?: string): Send {
  return async (method, path, body, headers = {}) => {
    const response = await fetch(origin + path, {
      method, headers: { ...(token === undefined ? {} : { authorization: `Bearer ${token}` }), ...(body === undefined ? {} : { 'content-type': 'application/json' }), ...headers }, ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    const text = await response.text()
    return { status: response.status, headers: response.headers, text, body: (text === '' ? {} : JSON.parse(text)) as Awaited<ReturnType<Send>>['body'] }
  }
}
