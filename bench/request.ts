import { fork, type ChildProcess } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import autocannon from 'autocannon'
import { benchDatabase, benchService } from './database.ts'
import { rounds } from './rounds.ts'

/**
 * Requests per second of GET /api/patients/{id} (verified token, signed caller, policy, sealed columns, audit entry, answer
 * by allow-list) against bare Express with a plain query, and against the conventional protected route, as well set as can be and as
 * usually written.
 */
type Said = { readonly port: number; readonly token: string; readonly usualToken: string; readonly patient: string }

function start<T>(file: string, settings: Readonly<Record<string, string>>): Promise<{ readonly child: ChildProcess; readonly said: T }> {
  const child = fork(join(import.meta.dirname, 'request', file), [JSON.stringify(settings)], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  return new Promise((resolve, reject) => {
    child.once('message', (said) => resolve({ child, said: said as T }))
    child.once('exit', (code) => reject(new Error(`bench: ${file} ended with ${code ?? 'a signal'}`)))
  })
}

async function send<T>(url: string, body: unknown): Promise<T> {
  const response = await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
  if (!response.ok) throw new Error(`bench: ${url} answered ${response.status}`)
  return (await response.json()) as T
}

/** Every answer must be a 200: a refusal is answered faster than a patient. */
async function load(url: string, token: string, seconds = 2): Promise<number> {
  const result = await autocannon({ url, connections: 16, duration: seconds, headers: { authorization: `Bearer ${token}` } })
  if (result.non2xx > 0 || result.errors > 0) throw new Error(`bench: ${url} gave ${result.non2xx} refusals and ${result.errors} errors`)
  return result['2xx'] / result.duration
}

export async function run(): Promise<void> {
  const database = await benchDatabase()
  const folder = await mkdtemp(join(tmpdir(), 'redoubt-bench-'))
  const children: ChildProcess[] = []
  try {
    const ours = await start<number>('therapy.ts', { app: database.url('app'), keys: database.url('keys'), kms: `local:${folder}/root.key`, roles: benchService })
    children.push(ours.child)
    const theirs = await start<Said>('conventional.ts', { admin: database.adminUrl })
    children.push(theirs.child)
    const api = `http://127.0.0.1:${ours.said}/api`
    const account = { email: 'katharina.brandenburg@example.org', password: 'a long enough pass phrase' }
    await send(`${api}/auth/register`, { role: 'patient', ...account, first_name: 'Katharina', last_name: 'Brandenburg', dob: '1984-05-17', phone: '+4915112345678' })
    await database.admin(`update redoubt.users set status = 'active'`)
    const { access_token: token, user_id: id } = await send<{ access_token: string; user_id: string }>(`${api}/auth/login`, account)
    const { port, token: theirToken, usualToken, patient } = theirs.said
    const at = (path: string, its: string) => (seconds?: number) => load(`http://127.0.0.1:${port}/${path}/${patient}`, its, seconds)
    const variants = {
      'Therapy: audited, sealed, isolated': (seconds?: number) => load(`${api}/patients/${id}`, token, seconds),
      'conventional, well set': at('protected', theirToken),
      'conventional, as usually written': at('usual', usualToken),
      'bare Express, plain query': at('bare', theirToken),
    }
    // Each until its code has been compiled: a service runs for weeks, the first ten thousand requests are slower.
    for (const warm of Object.values(variants)) await warm(8)
    await rounds({
      title: 'GET one patient, 16 connections',
      rounds: 7,
      variants,
      ratios: [
        ['Therapy: audited, sealed, isolated', 'bare Express, plain query'],
        ['Therapy: audited, sealed, isolated', 'conventional, well set'],
        ['Therapy: audited, sealed, isolated', 'conventional, as usually written'],
      ],
    })
  } finally {
    for (const child of children) child.disconnect()
    await database.close()
    await rm(folder, { recursive: true })
  }
}
