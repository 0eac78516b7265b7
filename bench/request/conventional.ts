import { createCipheriv, createDecipheriv, createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import express from 'express'
import jwt from 'jsonwebtoken'
import pg from 'pg'

/**
 * The two rivals in one process: `/bare/:id` is Express with a plain query; `/protected/:id` is what teams glue
 * together: jsonwebtoken (with a KeyObject, its fast way), BEGIN, set_config, query, audit INSERT, COMMIT, and a cipher helper.
 */
const { admin: url } = JSON.parse(process.argv[2] ?? '{}') as Readonly<Record<string, string>>
const pool = new pg.Pool({ connectionString: url, max: 10 })
const secret = createSecretKey(randomBytes(32))
const key = createSecretKey(randomBytes(32))

function encrypt(text: string): Buffer {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, iv)
  return Buffer.concat([iv, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
}

function decrypt(sealed: Buffer): string {
  const decipher = createDecipheriv('aes-256-gcm', key, sealed.subarray(0, 12), { authTagLength: 16 })
  decipher.setAuthTag(sealed.subarray(-16))
  return decipher.update(sealed.subarray(12, -16), undefined, 'utf8') + decipher.final('utf8')
}

await pool.query('create schema conventional')
await pool.query(`create table conventional.patients (id uuid primary key, owner_id uuid not null, first_name bytea, last_name bytea, dob bytea, phone bytea, version int);
  create table conventional.plain (id uuid primary key, first_name text, last_name text, dob text, phone text, version int);
  create table conventional.audit (id uuid primary key, at timestamptz not null default now(), actor uuid, action text, resource uuid, request text)`)
const ids = Array.from({ length: 1000 }, () => randomUUID())
for (const id of ids) {
  await pool.query('insert into conventional.patients values ($1, $1, $2, $3, $4, $5, 1)', [id, encrypt('Katharina'), encrypt('Brandenburg'), encrypt('1984-05-17'), encrypt('+4915112345678')])
  await pool.query('insert into conventional.plain values ($1, $2, $3, $4, $5, 1)', [id, 'Katharina', 'Brandenburg', '1984-05-17', '+4915112345678'])
}
const [patient = ''] = ids

const app = express()
app.disable('x-powered-by')
app.get('/bare/:id', async (req, res) => {
  const { rows } = await pool.query<Record<string, unknown>>({ name: 'plain', text: 'select id, first_name, last_name, dob, phone, version from conventional.plain where id = $1', values: [req.params.id] })
  res.json(rows[0])
})
app.get('/protected/:id', async (req, res) => {
  const claims = jwt.verify((req.headers.authorization ?? '').slice(7), secret, { algorithms: ['HS256'], audience: 'api', issuer: 'https://id.example' }) as jwt.JwtPayload
  const client = await pool.connect()
  try {
    await client.query('begin')
    await client.query({ name: 'user', text: `select set_config('app.user_id', $1, true)`, values: [String(claims.sub)] })
    const { rows } = await client.query<Readonly<Record<string, Buffer>>>({
      name: 'patient', values: [req.params.id, String(claims.sub)],
      text: 'select id, first_name, last_name, dob, phone, version from conventional.patients where id = $1 and owner_id = $2',
    })
    await client.query({ name: 'audit', text: 'insert into conventional.audit (id, actor, action, resource, request) values ($1, $2, $3, $4, $5)', values: [randomUUID(), String(claims.sub), 'patient.viewed', req.params.id, randomUUID()] })
    await client.query('commit')
    const [row] = rows
    if (row === undefined) res.status(404).end()
    else {
      const open = (name: string): string => decrypt(row[name] ?? Buffer.alloc(0))
      res.json({ id: row['id'], first_name: open('first_name'), last_name: open('last_name'), dob: open('dob'), phone: open('phone'), version: row['version'] })
    }
  } finally {
    client.release()
  }
})
const token = jwt.sign({ role: 'patient' }, secret, { subject: patient, audience: 'api', issuer: 'https://id.example', expiresIn: '1h' })
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') process.send?.({ port: address.port, token, patient })
})
process.on('disconnect', () => process.exit(0))
