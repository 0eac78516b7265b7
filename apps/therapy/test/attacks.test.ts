import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import type { Person } from 'redoubt/context'
import { transaction } from 'redoubt/transaction'
import { openClinic } from './support/clinic.ts'

const clinic = await openClinic()
const therapist = await clinic.therapist()
const ada = await clinic.patient()
const care = await clinic.care(ada, therapist)
const greatest = 2_147_483_647
const cursor = (parts: unknown): string => Buffer.from(typeof parts === 'string' ? parts : JSON.stringify(parts)).toString('base64url')
const anId = '01900000-0000-7000-8000-000000000000'

/** Bytes on the wire as they are, and all that came back within a connection's life, or until nothing more comes for a second. */
function wire(bytes: string): Promise<string> {
  return new Promise((resolve) => {
    let text = ''
    const socket = connect(Number(new URL(clinic.address).port), '127.0.0.1', () => void socket.write(bytes, 'latin1'))
    socket.setEncoding('latin1').setTimeout(1_000, () => socket.destroy())
    socket.on('data', (chunk: string) => (text += chunk)).on('error', () => undefined).on('close', () => resolve(text))
  })
}

test('attack: smuggling behind a probe: one whose framing a proxy may read otherwise is refused like any request, with what stands behind it', async () => {
  const behind = 'GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n'
  for (const path of ['live', 'ready', 'startup']) {
    assert.match(await wire(`GET /health/${path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`), /^HTTP\/1\.1 200 /)
    for (const framing of ['Transfer-Encoding: x, chunked', 'Transfer-Encoding: identity, chunked', 'Transfer-Encoding: xchunked']) {
      const text = await wire(`GET /health/${path} HTTP/1.1\r\nHost: a\r\n${framing}\r\n\r\n0\r\n\r\n${behind}`)
      assert.deepEqual([...text.matchAll(/^HTTP\/1\.1 (\d+)/gm)].map(([, status]) => status), ['400'], `${path} ${framing}: ${text.slice(0, 300)}`)
      assert.ok(!text.includes('"keys"'))
    }
    assert.match(await wire(`GET /health/${path} HTTP/1.1\r\nHost: a\r\nContent-Length: ${behind.length}\r\nConnection: close\r\n\r\n${behind}`), /^HTTP\/1\.1 404 [^]*"not_found"/)
  }
})

test('a cursor with NUL, a lone surrogate or bytes that are no UTF-8 is refused before SQL, on every list', async () => {
  const lists: readonly string[] = [
    '/api/therapists', '/api/appointments', '/api/relationships', '/api/conversations', '/api/patients', `/api/patients/${ada.id}/records`, `/api/patients/${ada.id}/audit`,
  ]
  for (const list of lists) {
    for (const parts of [['\0', anId], '["\\ud800","' + anId + '"]', [`${anId}\0`], ['\0'], ['0000-01-01T00:00:00Z', `${anId}\0`]]) {
      const { status, body } = await therapist.send('GET', `${list}?cursor=${cursor(parts)}`)
      assert.deepEqual([status, body['code']], [422, 'invalid_input'], `${list} ${JSON.stringify(parts)}`)
    }
    const bytes = Buffer.concat([Buffer.from('["'), Buffer.from([0xff]), Buffer.from(`","${anId}"]`)]).toString('base64url')
    assert.equal((await therapist.send('GET', `${list}?cursor=${bytes}`)).status, 422, list)
  }
})

test('the first and the last point in time that can be written are no failure of the database', async () => {
  for (const at of ['0000-01-01T00:00:00Z', '0000-01-01T00:00:00+23:59', '9999-12-31T23:59:59Z', '9999-12-31T23:59:59-23:59']) {
    assert.equal((await therapist.send('GET', `/api/appointments?from=${encodeURIComponent(at)}&to=${encodeURIComponent(at)}`)).status, 200, at)
    if (at.endsWith('Z')) assert.equal((await therapist.send('GET', `/api/appointments?cursor=${cursor([at, anId])}`)).status, 200, at)
  }
})

test('NUL in a query or a path never reaches SQL', async () => {
  for (const path of ['/api/patients?search=a%00b', '/api/appointments?status=%00', '/api/patients/%00', `/api/patients/${ada.id}%00`]) {
    const { status } = await therapist.send('GET', path)
    assert.ok(status === 400 || status === 422, `${path} ${status}`)
  }
})

test('a version that its column cannot hold one more of is refused before SQL', async () => {
  const free = await clinic.slot(therapist, { hours: 40 })
  const record = String((await therapist.send('POST', `/api/patients/${ada.id}/records`, { kind: 'plan', text: 'x' })).body['id'])
  const { id: _, therapist_id: __, version: ___, ...data } = (await ada.send('GET', `/api/patients/${ada.id}`)).body
  for (const version of [greatest, greatest + 1, Number.MAX_SAFE_INTEGER]) {
    for (const [who, method, path, body] of [
      [therapist, 'PATCH', '/api/therapists/me', { bio: 'x' }], [ada, 'PUT', `/api/patients/${ada.id}`, data],
      [ada, 'POST', `/api/relationships/${care}/end`, {}], [therapist, 'POST', `/api/records/${record}/release`, {}],
      [therapist, 'POST', `/api/records/${record}/correct`, { kind: 'plan', text: 'x' }], [therapist, 'PATCH', `/api/appointments/${free}`, { kind: 'video' }],
      [therapist, 'POST', `/api/appointments/${free}/complete`, {}], [ada, 'POST', '/api/appointments', { slot_id: free }],
    ] as const) {
      const refused = await who.send(method, path, { ...body, version })
      assert.equal(refused.status, 422, `${method} ${path} ${refused.text}`)
    }
  }
  assert.equal((await therapist.send('PATCH', '/api/therapists/me', { bio: 'x', version: greatest - 1 })).body['code'], 'version_conflict')
})

test('the cursor after the longest name there can be is taken back', async () => {
  const [one, two] = [await clinic.therapist({ verified: false }), await clinic.therapist({ verified: false })]
  for (const [at, { id }] of [one, two].entries()) {
    await clinic.database.admin(`update therapy.therapist_profiles set display_name = $2, verification = 'verified', verified_at = now() where user_id = $1`, [id, '語'.repeat(99) + String(at)])
  }
  let next: unknown = (await ada.send('GET', '/api/therapists?limit=1')).body['next']
  let pages = 1
  for (; typeof next === 'string'; pages++) {
    const page = await ada.send('GET', `/api/therapists?limit=1&cursor=${next}`)
    assert.equal(page.status, 200, page.text)
    next = page.body['next']
  }
  assert.equal(pages, 3)
})

test('a verified therapist cannot take a colleague’s name, by request or by SQL; everything else stays theirs', async () => {
  const [impostor, colleague] = [await clinic.therapist(), await clinic.therapist()]
  const nameOf = async (id: string): Promise<string> => String((await ada.send('GET', `/api/therapists/${id}`)).body['display_name'])
  const [own, theirs] = [await nameOf(impostor.id), await nameOf(colleague.id)]
  const { version } = (await impostor.send('GET', `/api/therapists/${impostor.id}`)).body as unknown as { readonly version: number }
  const renamed = await impostor.send('PATCH', '/api/therapists/me', { display_name: theirs, bio: 'x', version })
  assert.deepEqual([renamed.status, renamed.body['code']], [409, 'conflict'])
  const { actor, role, tenant, session } = clinic.service.app.identity.tokens.verify(impostor.token)
  const person: Person = { kind: 'user', actor, role, tenant, session, requestId: 'attack', address: null }
  await assert.rejects(transaction(clinic.service.app.db, person, 'therapist.updated', (tx) =>
    tx.query({ text: 'update therapy.therapist_profiles set display_name = $1', values: [theirs] })), { code: 'conflict' })
  assert.equal(await nameOf(impostor.id), own)
  const edited = await impostor.send('PATCH', '/api/therapists/me', { display_name: own, bio: 'Now with a biography', version })
  assert.deepEqual([edited.status, edited.body['bio'], edited.body['verification']], [200, 'Now with a biography', 'verified'])
  const pending = await clinic.therapist({ verified: false })
  assert.equal((await pending.send('PATCH', '/api/therapists/me', { display_name: 'Dr. Before', version: 1 })).body['display_name'], 'Dr. Before')
})
