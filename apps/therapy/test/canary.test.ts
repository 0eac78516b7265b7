import assert from 'node:assert/strict'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { logEvents, openLog } from 'redoubt/log'
import { transaction } from 'redoubt/transaction'
import { ownServer } from '../../../packages/redoubt/test/support/own-server.ts'
import { tables } from '../src/tables.ts'
import { openClinic, type Answer } from './support/clinic.ts'

// Everything a person entrusts to Therapy carries a mark here. Real requests bring it in; then every byte of the data
// folder (tables, indexes, WAL, statistics, the server's log with every statement logged), our own log at its most
// talkative, every error answer, the audit record and EXPLAIN are searched for it, in the writings it could hide in.

const mark = 'qzkanari'
const canary = {
  first_name: `Q${mark} Adele`, last_name: `${mark.toUpperCase()}-Sandmann`, dob: '1971-03-17', phone: '+49 30 99047117', address: `${mark}strasse 4, 10115 Berlin`,
  emergency_contact: `${mark} Bruder, +49 30 99047118`, insurance_no: 'QZKANARI4711', licence: 'QZKANARI 0815', diagnosis: `${mark}: mittelgradige Episode`, icd: 'F32.1', message: `${mark} ich habe Angst`,
  note: `${mark} wirkt erschöpft`, password: `${mark}-Zh4!vatersommer`, email: `${mark}.adele@example.org`,
} as const

const server = await ownServer(['redoubt', 'therapy'])
const { database } = server
// The worst that an operator can set: every statement in the server's log.
for (const sql of [`alter system set log_statement = 'all'`, 'alter system set log_min_duration_statement = 0', 'alter system set log_duration = on', 'select pg_reload_conf()']) await database.admin(sql)
const lines: string[] = []
const log = openLog({ service: 'therapy', version: '0', tables, level: 'trace', sink: { write: (line) => void lines.push(line), flush: () => undefined, close: () => undefined, lost: 0 }, atEnd: false })
const clinic = await openClinic({ database, emit: logEvents(log) })
after(() => server.remove())

const refusals: Answer[] = []
const secrets: string[] = []
async function asked(answer: Promise<Answer>, status: number): Promise<Answer> {
  const got = await answer
  assert.equal(got.status, status, got.text.slice(0, 200))
  if (status >= 400) refusals.push(got)
  return got
}

/** The writings of a text that a search must know: as it is, in capitals and small, UTF-16, hex, base64 at its three offsets, URL. */
function writings(text: string): readonly Buffer[] {
  const base64 = [0, 1, 2].map((shift) => {
    const bytes = Buffer.concat([Buffer.alloc(shift), Buffer.from(text)])
    // The characters that the neighbours of the text cannot change.
    return bytes.toString('base64').slice(shift === 0 ? 0 : 4, Math.floor((bytes.length * 4) / 3) - 4)
  })
  const hex = Buffer.from(text).toString('hex')
  const texts = new Set([text, text.toLowerCase(), text.toUpperCase(), encodeURIComponent(text), hex, hex.toUpperCase(), ...base64].filter((each) => each.length >= 6))
  return [...[...texts].map((each) => Buffer.from(each)), Buffer.from(text, 'utf16le')]
}
const marks = [mark, canary.phone, canary.phone.replaceAll(' ', ''), '99047117', '99047118', canary.dob, 'erschöpft', 'vatersommer']

/** Where any of these texts is found in these bytes. */
function finds(bytes: Buffer, texts: readonly string[]): readonly string[] {
  return texts.filter((text) => writings(text).some((writing) => bytes.includes(writing)))
}

async function* filesUnder(folder: string): AsyncGenerator<string> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name)
    const found = await stat(path).catch(() => undefined)
    if (found?.isDirectory() === true) yield* filesUnder(path)
    else if (found?.isFile() === true && found.size > 0) yield path
  }
}

/** Every file of the server's data folder in which one of the texts stands. */
async function sweep(texts: readonly string[]): Promise<readonly string[]> {
  await database.admin('checkpoint')
  const hits: string[] = []
  for await (const path of filesUnder(server.data)) for (const text of finds(await readFile(path), texts)) hits.push(`${path.slice(server.data.length)}: ${text}`)
  return hits
}

test('real requests bring the marked data in, and their owners get it back', async () => {
  const { send } = clinic
  const patient = { role: 'patient', email: canary.email, password: canary.password, first_name: canary.first_name, last_name: canary.last_name, dob: canary.dob, phone: canary.phone }
  const { body: { request } } = await asked(send()('POST', '/api/auth/register', patient), 202)
  await asked(send()('POST', '/api/auth/register', patient), 202)
  await asked(send()('POST', '/api/auth/email/verify', { request, code: await clinic.mailed(request) }), 200)
  await asked(send()('POST', '/api/auth/password/forgot', { email: canary.email }), 202)
  const therapist = await clinic.therapist()
  await asked(send()('POST', '/api/auth/register', {
    role: 'therapist', email: `${mark}.doctor@example.org`, password: canary.password, display_name: 'Dr. Public', specialisation: 'x', licence_number: canary.licence, price_minor: 1, currency: 'EUR', time_zone: 'UTC',
  }), 202)
  const signedIn = await asked(send()('POST', '/api/auth/login', { email: canary.email, password: canary.password }), 200)
  const token = String(signedIn.body['access_token'])
  const id = String(signedIn.body['user_id'])
  secrets.push(token, ...token.split('.').slice(1), therapist.token)
  const adele = { id, email: canary.email, password: canary.password, token, send: send(token) }

  await asked(adele.send('PUT', `/api/patients/${id}`, {
    first_name: canary.first_name, last_name: canary.last_name, dob: canary.dob, phone: canary.phone, address: canary.address, emergency_contact: canary.emergency_contact, insurance_no: canary.insurance_no, version: 1,
  }), 200)
  const care = await clinic.care(adele, therapist)
  const appointment = await clinic.slot(therapist, { patient: adele })
  await asked(therapist.send('POST', `/api/appointments/${appointment}/notes`, { text: canary.note }), 201)
  await asked(adele.send('POST', `/api/appointments/${appointment}/notes`, { text: canary.note }), 201)
  const idempotent = { 'idempotency-key': 'one-and-the-same-key' }
  for (let n = 0; n < 2; n++) await asked(adele.send('POST', `/api/conversations/${care}/messages`, { text: canary.message }, idempotent), 201)
  await asked(therapist.send('POST', `/api/conversations/${care}/messages`, { text: canary.message }), 201)
  const record = await asked(therapist.send('POST', `/api/patients/${id}/records`, { kind: 'diagnosis', text: canary.diagnosis, icd_code: canary.icd, risk_level: 'low' }), 201)
  await asked(therapist.send('POST', `/api/records/${String(record.body['id'])}/release`, { version: 1 }), 200)
  const found = await asked(therapist.send('GET', `/api/patients?search=${mark}`), 200)
  assert.ok(found.text.includes(canary.first_name))
  for (const path of [`/api/patients/${id}`, `/api/patients/${id}/records`, `/api/conversations/${care}/messages`, `/api/patients/${id}/audit`]) await asked(adele.send('GET', path), 200)
  assert.ok((await adele.send('GET', `/api/patients/${id}/records`)).text.includes(canary.diagnosis))
})

test('refused requests carry the marked data too', async () => {
  const { send } = clinic
  const stranger = await clinic.patient()
  const { text: raw } = await asked(send()('POST', '/api/auth/login', { email: canary.email, password: `${canary.password}x` }), 401)
  assert.ok(raw.includes('sign_in_failed'))
  await asked(send()('POST', '/api/auth/login', { email: `nobody.${mark}@example.org`, password: canary.password }), 401)
  await asked(send(`${mark}.${mark}.${mark}`)('GET', '/api/patients'), 401)
  await asked(send(secrets[0]?.slice(0, -3))('GET', '/api/patients'), 401)
  for (const [method, path, body] of [
    ['POST', '/api/auth/register', { role: 'patient', email: mark, password: canary.password, first_name: canary.first_name }],
    ['POST', '/api/auth/register', { [canary.email]: mark, [canary.message]: mark }], ['POST', '/api/auth/register', `{"email":"${canary.email}", ${mark}`], ['POST', '/api/auth/login', [canary.email]],
    ['PUT', `/api/patients/${stranger.id}`, { first_name: canary.first_name.repeat(50), dob: canary.dob, phone: canary.phone, [canary.address]: canary.address, version: mark }],
    ['GET', `/api/patients/${mark}`, undefined], ['GET', `/api/patients?${encodeURIComponent(canary.email)}=${mark}`, undefined], ['GET', `/${mark}/${encodeURIComponent(canary.email)}`, undefined], ['PATCH', `/api/patients?search=${mark}`, undefined],
    ['POST', '/api/relationships', { therapist_id: canary.message, basis: mark }], ['POST', '/api/appointments', { slot_id: canary.email, version: 1 }],
    ['GET', `/api/patients?search=${mark}&after=${Buffer.from(canary.email).toString('base64url')}`, undefined],
  ] as const) {
    const answer = await stranger.send(method, path, body)
    assert.ok(answer.status >= 400 && answer.status < 500, `${method} ${path}: ${answer.status}`)
    refusals.push(answer)
  }
  // And what a fault deep inside would do with it.
  const { actor, role, tenant, session } = clinic.service.app.identity.tokens.verify(stranger.token)
  const caller = { kind: 'user', actor, role, tenant, session, requestId: 'fault', address: null } as const
  const fault = transaction(clinic.service.app.db, caller, 'patient.viewed', (tx) => tx.query({ text: 'select first_name_enc::text::int from therapy.patients where id = $1 and $2::text is not null', values: [actor, canary.message] }))
  await assert.rejects(fault, { code: 'database_error' })
})

test('no error answer holds it, in body or headers', () => {
  assert.ok(refusals.length > 15)
  for (const { text, headers } of refusals) assert.deepEqual(finds(Buffer.from(`${text}\n${JSON.stringify([...headers])}`), [...marks, ...secrets]), [], text)
})

test('no line of our log holds it, at its most talkative', () => {
  assert.ok(lines.length > 40)
  log.info('service', 'control', { about: 'qzkontrolle' })
  const text = Buffer.from(lines.join(''))
  assert.deepEqual(finds(text, ['qzkontrolle']), ['qzkontrolle'])
  assert.deepEqual(finds(text, [...marks, ...secrets]), [])
})

test('no table as text, no audit entry, no statistics and no EXPLAIN hold it', async () => {
  const relations = await database.admin<{ name: string }>(`select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'm') and n.nspname not in ('information_schema')`)
  await database.admin('analyze')
  for (const { name } of [...relations, { name: 'pg_stats' }, { name: 'pg_stat_activity' }, { name: 'pg_prepared_statements' }]) {
    const rows = await database.admin<{ line: string }>(`select t::text as line from ${name} t`)
    assert.deepEqual(finds(Buffer.from(rows.map(({ line }) => line).join('\n')), [...marks, ...secrets]), [], name)
  }
  const [email] = await clinic.service.app.columns.lookup('redoubt.users', 'email_bidx', canary.email, clinic.service.app.identity.tokens.verify(secrets[0] ?? '').tenant)
  assert.ok(email !== undefined)
  for (const text of [
    `select * from redoubt.users where email_bidx = '\\x${email.toString('hex')}'`, 'select * from therapy.patients', 'select * from therapy.messages m join therapy.care_relationships r on r.id = m.care_relationship_id',
    'select * from therapy.medical_records order by body_enc', 'update therapy.patients set first_name_enc = last_name_enc', 'insert into therapy.messages select * from therapy.messages where false',
  ]) {
    const plan = await database.admin<{ 'QUERY PLAN': string }>(`explain (verbose, costs, settings) ${text}`)
    const analysed = await database.admin<{ 'QUERY PLAN': string }>(`explain (analyze, verbose, buffers) ${text.startsWith('select') ? text : 'select 1'}`)
    const lines_ = [...plan, ...analysed].map((row) => row['QUERY PLAN']).join('\n')
    assert.ok(lines_.length > 20)
    assert.deepEqual(finds(Buffer.from(lines_), [...marks, ...secrets]), [], text)
  }
})

test('no byte of the data folder holds it: tables, indexes, WAL, server log', async () => {
  await database.admin(`create table public.control (text text); insert into public.control values ('qzkontrolle im Klartext'); create index on public.control (text)`)
  const control = (await sweep(['qzkontrolle'])).join()
  assert.match(control, /\/base\//)
  assert.match(control, /\/pg_wal\//)
  assert.match(control, /server\.log/)
  assert.deepEqual(await sweep([...marks, ...secrets]), [])
})
