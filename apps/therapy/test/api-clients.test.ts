import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UsageProblem } from 'redoubt/cli/io'
import { systemCaller } from 'redoubt/context'
import type { Tx } from 'redoubt/pg'
import { createClient, insideNetworks, isNetwork, rotateClient } from 'redoubt/tokens/clients'
import { transaction } from 'redoubt/transaction'
import { clientCommandOf, runClientCommand } from '../src/api-clients.ts'
import { tenant } from '../src/app.ts'
import { openClinic, type Answer } from './support/clinic.ts'

const clinic = await openClinic()
const other = await clinic.another()
const { app } = clinic.service
const visitor = { requestId: 'operator', address: null }
const { send: admin } = await clinic.administrator()
const { send: auditor } = await clinic.administrator('auditor')
const patient = await clinic.patient()
const therapist = await clinic.therapist()

type Credentials = { readonly id: string; readonly secret: string }
const make = (networks: readonly string[] = []): Promise<Credentials> => runClientCommand(app, visitor, { do: 'create', name: 'Directory', scopes: ['therapists:read'], networks })
const basic = ({ id, secret }: Credentials): string => `Basic ${Buffer.from(`${id}:${secret}`).toString('base64')}`
const ask = (body: string, headers: Record<string, string> = {}, send = clinic.send()): Promise<Answer> =>
  send('POST', '/api/auth/token', body, { 'content-type': 'application/x-www-form-urlencoded', ...headers })
const grant = 'grant_type=client_credentials'
const tokenOf = async (client: Credentials): Promise<string> => {
  const answer = await ask(grant, { authorization: basic(client) })
  assert.equal(answer.status, 200, answer.text)
  return String(answer.body['access_token'])
}

test('client credentials, in the header or in the form, give a token with the scopes asked for', async () => {
  const client = await make()
  for (const answer of [
    await ask(grant, { authorization: basic(client) }), await ask(`${grant}&client_id=${client.id}&client_secret=${client.secret}`), await ask(`${grant}&scope=therapists%3Aread`, { authorization: basic(client) }),
  ]) {
    assert.equal(answer.status, 200, answer.text)
    const { access_token: token, ...rest } = answer.body
    assert.deepEqual(rest, { token_type: 'Bearer', expires_in: 600, scope: 'therapists:read' })
    const listed = await clinic.send(String(token))('GET', '/api/therapists')
    assert.equal(listed.status, 200, listed.text)
    assert.ok((listed.body['items'] as unknown as readonly { readonly id: string }[]).some(({ id }) => id === therapist.id))
    assert.equal(answer.headers.get('cache-control'), 'no-store')
  }
})

test('what is wrong with the credentials is told in the words of RFC 6749, and never which half', async () => {
  const client = await make()
  const refused = async (code: string, status: number, body: string, headers: Record<string, string> = {}): Promise<Answer> => {
    const answer = await ask(body, headers)
    assert.deepEqual([answer.status, answer.body['code']], [status, code], answer.text)
    if (code.startsWith('invalid_') || code.startsWith('unsupported_')) assert.equal(answer.body['error'], code)
    return answer
  }
  const stranger = '0190a8f0-0000-7000-8000-0000000000ff'
  for (const authorization of [
    basic({ ...client, secret: `${client.secret.slice(0, -1)}${client.secret.endsWith('A') ? 'B' : 'A'}` }), basic({ ...client, id: stranger }), basic({ id: "' or 1=1 --", secret: client.secret }), basic({ ...client, secret: '' }),
    'Basic', 'Basic !!!', `Bearer ${client.secret}`, basic({ id: client.id.toUpperCase(), secret: client.secret }),
  ]) assert.equal((await refused('invalid_client', 401, grant, { authorization })).headers.get('www-authenticate'), 'Basic realm="token"', authorization)
  await refused('invalid_client', 401, grant)
  await refused('invalid_scope', 400, `${grant}&scope=patients%3Aread`, { authorization: basic(client) })
  await refused('unsupported_grant_type', 400, 'grant_type=password&client_id=x', { authorization: basic(client) })
  await refused('malformed_request', 400, `${grant}&client_id=${client.id}&client_secret=${client.secret}`, { authorization: basic(client) })
  await refused('malformed_request', 400, `${grant}&${grant}`, { authorization: basic(client) })
  await refused('malformed_request', 400, `${grant}&admin=true`, { authorization: basic(client) })
  const query = await clinic.send()('POST', `/api/auth/token?client_id=${client.id}&client_secret=${client.secret}`, grant, { 'content-type': 'application/x-www-form-urlencoded' })
  assert.equal(query.status, 422, 'never in the query, which ends in logs')
  assert.ok(clinic.events.some((event) => event.type === 'auth.client_refused'))
})

test('a client reaches the routes of its scope and none else, whatever their roles', async () => {
  const token = await tokenOf(await make())
  for (const route of clinic.service.routes) {
    if (route.access === 'public' || route.scope !== undefined) continue
    const answer = await clinic.send(token)(route.method, route.path.replaceAll(/\{\w+\}/g, patient.id))
    assert.deepEqual([answer.status, answer.body['code']], [403, 'forbidden'], `${route.method} ${route.path}`)
  }
  assert.equal((await clinic.send()('GET', '/api/auth/me', undefined, { cookie: `__Host-therapy-access=${token}` })).status, 401, 'nor is it a browser')
})

test('two secrets are valid during rotation, never three; without overlap only the new one', async () => {
  const first = await make()
  const second = await runClientCommand(app, visitor, { do: 'rotate', id: first.id })
  await tokenOf(first)
  await tokenOf(second)
  const third = await runClientCommand(app, visitor, { do: 'rotate', id: first.id })
  assert.equal((await ask(grant, { authorization: basic(first) })).status, 401)
  await tokenOf(second)
  const fourth = await transaction(app.db, systemCaller('api-clients', tenant, visitor), 'client.rotated', (tx) => rotateClient(tx, app.identity.keyring, first.id, 0))
  assert.equal((await ask(grant, { authorization: basic(third) })).status, 401)
  await tokenOf(fourth)
})

test('a revoked client has no token from that moment on, on any instance', async () => {
  const client = await make()
  const token = await tokenOf(client)
  const elsewhere = other.send(token)
  assert.equal((await elsewhere('GET', '/api/therapists')).status, 200)
  await runClientCommand(app, visitor, { do: 'revoke', id: client.id })
  for (const send of [elsewhere, clinic.send(token)]) assert.deepEqual((await send('GET', '/api/therapists')).body['code'], 'caller_refused')
  assert.equal((await ask(grant, { authorization: basic(client) })).body['code'], 'invalid_client')
  await assert.rejects(runClientCommand(app, visitor, { do: 'revoke', id: client.id }), /not_found/)
})

test('attack: stolen credentials, or a stolen token, from outside the client’s networks', async () => {
  const outside = await make(['203.0.113.0/24'])
  assert.equal((await ask(grant, { authorization: basic(outside) })).body['code'], 'invalid_client')
  const inside = await make(['127.0.0.1', '10.1.2.3/8'])
  const token = await tokenOf(inside)
  assert.equal((await clinic.send(token)('GET', '/api/therapists')).status, 200)
  const { networks } = app.identity.tokens.verify(token).client ?? { networks: [] }
  assert.deepEqual([insideNetworks(networks, '127.0.0.1'), insideNetworks(networks, '10.9.9.9'), insideNetworks(networks, '11.0.0.1'), insideNetworks(networks, null), insideNetworks(networks, '::1'), insideNetworks([], null)], [true, true, false, false, false, true])
  const stolen = app.identity.tokens.issue({ actor: inside.id, session: app.identity.tokens.verify(token).session, role: 'api_client', tenant, client: { scopes: ['therapists:read'], networks: ['203.0.113.0/24'] } })
  assert.equal((await clinic.send(stolen.token)('GET', '/api/therapists')).status, 401)
  assert.deepEqual(['2001:db8::7', '2001:db9::7', '::1', '::2', '10.0.0.1'].map((address) => insideNetworks(['2001:db8::/32', '::1'], address)), [true, false, true, false, false])
  assert.ok(['10.0.0.0/8', '203.0.113.7', '2001:db8::/32', '::1'].every(isNetwork))
  assert.ok(['0.0.0.0/0', '::/0', '10.0.0.0/33', '10.0.0.0/08', 'localhost', '', 'fe80::1%eth0', '10.0.0.0/8/8', '1.2.3.4/7'].every((text) => !isNetwork(text)))
})

test('a client without scopes, or with words and networks that are none, is a mistake', async () => {
  const given = { name: 'x', scopes: ['therapists:read'], networks: [] }
  for (const wrong of [{ scopes: [] }, { scopes: ['Therapists Read'] }, { networks: ['0.0.0.0/0'] }, { networks: Array.from({ length: 17 }, () => '10.0.0.0/8') }]) {
    await assert.rejects(createClient({} as Tx, clinic.service.keyring, { ...given, ...wrong }), TypeError)
  }
})

test('attack: a person’s token with a scope, or a client’s without', () => {
  const person = { actor: patient.id, session: patient.id, tenant }
  const client = { scopes: ['therapists:read'], networks: [] }
  assert.throws(() => app.identity.tokens.issue({ ...person, role: 'patient', client }), /unauthenticated/)
  assert.throws(() => app.identity.tokens.issue({ ...person, role: 'api_client' }), /unauthenticated/)
  assert.throws(() => app.identity.tokens.issue({ ...person, role: 'api_client', client: { scopes: [], networks: [] } }), /unauthenticated/)
})

test('administrators make, list, rotate and revoke clients; nobody else does, and no answer has a secret twice', async () => {
  const made = await admin('POST', '/api/api-clients', { name: 'Partner', scopes: ['therapists:read'], networks: ['127.0.0.1'] })
  assert.equal(made.status, 201, made.text)
  const client = { id: String(made.body['client_id']), secret: String(made.body['client_secret']) }
  await tokenOf(client)
  const listed = await admin('GET', '/api/api-clients')
  const [row] = (listed.body['items'] as unknown as readonly Record<string, unknown>[]).filter(({ id }) => id === client.id)
  assert.deepEqual([row?.['name'], row?.['scopes'], row?.['networks'], row?.['revoked_at'], typeof row?.['last_used_at']], ['Partner', ['therapists:read'], ['127.0.0.1'], null, 'string'])
  assert.ok(!listed.text.includes('rcs_') && !/hash/.test(listed.text))
  const rotated = await admin('POST', `/api/api-clients/${client.id}/rotate`, {})
  await tokenOf({ id: client.id, secret: String(rotated.body['client_secret']) })
  assert.equal((await admin('DELETE', `/api/api-clients/${client.id}`)).status, 204)
  assert.equal((await admin('DELETE', `/api/api-clients/${client.id}`)).status, 404)
  assert.equal((await admin('POST', `/api/api-clients/${client.id}/rotate`, {})).status, 404)
  for (const body of [{ name: 'x', scopes: ['patients:read'] }, { name: 'x', scopes: [] }, { name: '', scopes: ['therapists:read'] }, { name: 'x', scopes: ['therapists:read'], networks: ['0.0.0.0/0'] }]) {
    assert.equal((await admin('POST', '/api/api-clients', body)).status, 422, JSON.stringify(body))
  }
  assert.equal((await auditor('GET', '/api/api-clients')).status, 403)
  for (const send of [patient.send, therapist.send]) assert.equal((await send('GET', '/api/api-clients')).status, 404, 'not at this door')
  const entries = await clinic.database.admin<{ action: string; actor_type: string; outcome: string }>(`select action, actor_type, outcome from redoubt.audit_logs where action like 'client.%' and resource_id = $1 order by id`, [client.id])
  assert.deepEqual(entries.map(({ action }) => action), ['client.created', 'client.signed_in', 'client.rotated', 'client.signed_in', 'client.revoked'])
})

test('attack: SQL of an ordinary caller reads no secret, revokes no client and opens no session of one', async () => {
  const client = await make()
  const caller = { kind: 'user', actor: patient.id, role: 'patient', tenant, session: app.identity.tokens.verify(patient.token).session, requestId: 'sql', address: null } as const
  const run = (text: string): Promise<readonly unknown[]> => transaction(app.db, caller, 'account.viewed', (tx) => tx.query({ text, values: [] }))
  assert.deepEqual(await run('select id from redoubt.api_clients'), [])
  for (const text of [
    'select secret_hash from redoubt.api_clients', `select guard.revoke_api_client('${client.id}')`, `select guard.rotate_api_client('${client.id}', '\\x00', '\\x00', 60)`, `update redoubt.api_clients set revoked_at = now()`,
    `select guard.open_client_session('${client.id}', '\\x00', null, null, '${client.id}', 600)`, `insert into redoubt.api_clients (id, tenant, name, secret_hash, scopes) values ('${patient.id}', '${tenant}', 'x', '\\x${'00'.repeat(32)}', '{a}')`,
  ]) await assert.rejects(run(text), text)
  await tokenOf(client)
})

test('the command is read strictly, and what is wrong with it is named', () => {
  assert.deepEqual(clientCommandOf(['create', 'Directory', 'therapists:read', '10.0.0.0/8,127.0.0.1']), { do: 'create', name: 'Directory', scopes: ['therapists:read'], networks: ['10.0.0.0/8', '127.0.0.1'] })
  assert.deepEqual(clientCommandOf(['revoke', patient.id]), { do: 'revoke', id: patient.id })
  for (const [why, ...words] of [
    ['say which: create, rotate or revoke'], ['say which', 'delete', patient.id], ['takes a name', 'create'], ['takes a name', 'create', 'x'], ['takes a name', 'create', 'x', ''], ['takes a name', 'create', 'x'.repeat(101), 'therapists:read'],
    ['takes a name', 'create', 'x', 'therapists:read', '', 'y'], ['there is no scope everything; there is therapists:read', 'create', 'x', 'everything'], ['there is no scope patients:read', 'create', 'x', 'therapists:read,patients:read'],
    ['anywhere is no address and no network', 'create', 'x', 'therapists:read', 'anywhere'], ['takes one word, the client’s id', 'rotate', 'x'], ['takes one word', 'rotate', patient.id, 'y'],
  ]) assert.throws(() => clientCommandOf(words), (error) => error instanceof UsageProblem && error.message.includes(why ?? '?'), words.join(' '))
})
