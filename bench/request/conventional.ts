import { createCipheriv, createDecipheriv, createSecretKey, randomBytes, randomUUID, type KeyObject } from 'node:crypto'
import express from 'express'
import jwt from 'jsonwebtoken'
import pg from 'pg'

/**
 * The rivals in one process: `/bare/:id` is Express with a plain query. `/protected/:id` is what teams glue together:
 * jsonwebtoken, BEGIN, set_config, query, audit INSERT, COMMIT and a cipher helper, each set as well as can be: KeyObjects
 * and named statements. `/usual/:id` is the same route as it is usually written: the token's secret a string, the cipher's
 * key a Buffer, statements without a name.
 */
const { admin: url } = JSON.parse(process.argv[2] ?? '{}') as Readonly<Record<string, string>>
const pool = new pg.Pool({ connectionString: url, max: 10 })
const secret = createSecretKey(randomBytes(32))
const key = createSecretKey(randomBytes(32))
const usualSecret = randomBytes(32).toString('hex')
const usualKey = key.export()

function encrypt(text: string): Buffer {
  const iv = randomBytes(12)
  const cipher = createCipheriv('aes-256-gcm', key, iv)
  return Buffer.concat([iv, cipher.update(text, 'utf8'), cipher.final(), cipher.getAuthTag()])
}

function decrypt(sealed: Buffer, under: KeyObject | Buffer): string {
  const decipher = createDecipheriv('aes-256-gcm', under, sealed.subarray(0, 12), { authTagLength: 16 })
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

/** The same route twice; only how its parts are set differs. */
function protectedRoute(path: string, set: { readonly secret: KeyObject | string; readonly key: KeyObject | Buffer; readonly named: boolean }): void {
  const statement = (name: string, text: string, values: readonly unknown[]): pg.QueryConfig => ({ text, values: [...values], ...(set.named ? { name } : {}) })
  app.get(path, async (req, res) => {
    const id = String(req.params['id'])
    const claims = jwt.verify((req.headers.authorization ?? '').slice(7), set.secret, { algorithms: ['HS256'], audience: 'api', issuer: 'https://id.example' }) as jwt.JwtPayload
    const client = await pool.connect()
    try {
      await client.query('begin')
      await client.query(statement('user', `select set_config('app.user_id', $1, true)`, [String(claims.sub)]))
      const { rows } = await client.query<Readonly<Record<string, Buffer>>>(
        statement('patient', 'select id, first_name, last_name, dob, phone, version from conventional.patients where id = $1 and owner_id = $2', [id, String(claims.sub)]),
      )
      await client.query(statement('audit', 'insert into conventional.audit (id, actor, action, resource, request) values ($1, $2, $3, $4, $5)', [randomUUID(), String(claims.sub), 'patient.viewed', id, randomUUID()]))
      await client.query('commit')
      const [row] = rows
      if (row === undefined) res.status(404).end()
      else {
        const open = (name: string): string => decrypt(row[name] ?? Buffer.alloc(0), set.key)
        res.json({ id: row['id'], first_name: open('first_name'), last_name: open('last_name'), dob: open('dob'), phone: open('phone'), version: row['version'] })
      }
    } finally {
      client.release()
    }
  })
}
protectedRoute('/protected/:id', { secret, key, named: true })
protectedRoute('/usual/:id', { secret: usualSecret, key: usualKey, named: false })

const claims = { subject: patient, audience: 'api', issuer: 'https://id.example', expiresIn: '1h' } as const
const token = jwt.sign({ role: 'patient' }, secret, claims)
const usualToken = jwt.sign({ role: 'patient' }, usualSecret, claims)
const server = app.listen(0, '127.0.0.1', () => {
  const address = server.address()
  if (address !== null && typeof address === 'object') process.send?.({ port: address.port, token, usualToken, patient })
})
process.on('disconnect', () => process.exit(0))
