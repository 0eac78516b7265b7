import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { Refusal } from '../../../src/errors.ts'
import { enrolPasskey, passkeyOptions } from '../../../src/tokens/factors/enrol.ts'
import { openPasskeys } from '../../../src/tokens/factors/passkey.ts'
import { passkeySignIn, passkeySignInOptions } from '../../../src/tokens/factors/sign-in.ts'
import type { SignedIn } from '../../../src/tokens/sessions.ts'
import { stepUp } from '../../../src/tokens/step-up.ts'
import type { Ceremony, Authenticator } from '../../support/authenticator.ts'
import { testDatabase } from '../../support/database.ts'
import { openFactorWorld, origin, softwareAuthenticator, type FactorWorld } from '../../support/factors.ts'
import { agent, password, visitor } from '../../support/identity.ts'

const database = await testDatabase({ origins: ['redoubt'] })
const world = await openFactorWorld(database)
after(() => world.close())
const { factors, identity, opened } = world

const refused = (work: Promise<unknown>, code = 'factor_refused'): Promise<void> => assert.rejects(work, (error) => error instanceof Refusal && error.code === code)
type Someone = Awaited<ReturnType<FactorWorld['person']>>

async function holder(device: Authenticator): Promise<Someone & { readonly factor: string }> {
  const someone = await world.person()
  return { ...someone, factor: await world.passkey(someone, device, { kind: 'password', password }) }
}
/** A sign-in by password and then this device, as told. */
async function second(someone: Pick<Someone, 'indexes'>, device: Authenticator, ceremony: Partial<Ceremony> = {}): Promise<SignedIn> {
  const { pending, passkey } = await world.begin(someone)
  assert.ok(passkey !== undefined)
  return world.complete(pending, { kind: 'webauthn', response: device.get(passkey, { origin, ...ceremony }) })
}
async function alone(device: Authenticator, ceremony: Partial<Ceremony> = {}, from: string = agent): Promise<SignedIn> {
  const options = await passkeySignInOptions(factors, visitor, { agent })
  return passkeySignIn(factors, identity, visitor, { response: device.get(options, { origin, ...ceremony }), agent: from })
}

test('a passkey is a second factor, and a sign-in of its own', async () => {
  for (const counts of [true, false]) {
    const device = softwareAuthenticator({ counts })
    const ada = await holder(device)
    assert.equal((await second(ada, device)).actor, ada.id)
    const done = await alone(device)
    assert.equal(done.actor, ada.id)
    assert.deepEqual(await opened.look(opened.person(done.token)), [{ actor: ada.id }])
  }
})

test('with the first passkey come recovery codes, and the public key stands sealed', async () => {
  const { person, id } = await world.person()
  const device = softwareAuthenticator()
  const { handle } = await stepUp(factors, identity, person, { action: 'factor.enrol', resource: id, proof: { kind: 'password', password } })
  const options = await passkeyOptions(factors, person, { account: 'ada@example.test' })
  assert.equal(options.authenticatorSelection?.userVerification, 'required')
  assert.equal(options.attestation, 'none')
  const made = await enrolPasskey(factors, person, { label: 'laptop', response: device.create(options, { origin }), stepUp: handle })
  assert.equal(made.recoveryCodes?.length, 10)
  assert.deepEqual((await passkeyOptions(factors, person, { account: 'x' })).excludeCredentials?.length, 1)
})

test('attack: another origin, another site’s authenticator data, a page in a foreign frame, nobody asked for PIN or finger', async () => {
  const device = softwareAuthenticator()
  const ada = await holder(device)
  const wrong: readonly Partial<Ceremony>[] = [
    { origin: 'https://localhost:4310' }, { origin: 'http://localhost:4311' }, { origin: 'http://evil.example' }, { origin: 'http://localhost.evil.example' },
    { rpId: 'evil.example' }, { crossOrigin: true }, { verified: false }, { challenge: 'AAAA' }, { challenge: '' },
  ]
  for (const ceremony of wrong) {
    await refused(second(ada, device, ceremony))
    await refused(alone(device, ceremony))
  }
  assert.equal((await second(ada, device)).actor, ada.id)
})

test('attack: the same at enrolment, and an answer to another session’s or another person’s challenge', async () => {
  const { person, id, indexes } = await world.person()
  const ben = await world.person()
  const { handle } = await stepUp(factors, identity, person, { action: 'factor.enrol', resource: id, proof: { kind: 'password', password } })
  const options = await passkeyOptions(factors, person, { account: 'x' })
  const enrol = (ceremony: Partial<Ceremony>, of = options): Promise<unknown> =>
    enrolPasskey(factors, person, { label: 'x', response: softwareAuthenticator().create(of, { origin, ...ceremony }), stepUp: handle })
  for (const ceremony of [{ origin: 'http://evil.example' }, { rpId: 'evil.example' }, { verified: false }, { crossOrigin: true }, { challenge: 'AAAA' }]) await refused(enrol(ceremony))
  await refused(enrol({}, await passkeyOptions(factors, ben.person, { account: 'x' })))
  await refused(enrol({}, await passkeyOptions(factors, opened.person((await opened.signIn(indexes)).token), { account: 'x' })))
  await enrol({})
})

test('attack: an answer is good once, also twice at the same moment', async () => {
  const device = softwareAuthenticator({ counts: false })
  await holder(device)
  const response = device.get(await passkeySignInOptions(factors, visitor, { agent }), { origin })
  const all = await Promise.allSettled(Array.from({ length: 10 }, () => passkeySignIn(factors, identity, visitor, { response, agent })))
  assert.equal(all.filter(({ status }) => status === 'fulfilled').length, 1)
  await refused(passkeySignIn(factors, identity, visitor, { response, agent }))
})

test('attack: a challenge of another pending sign-in, another browser or another use, and one older than five minutes', async () => {
  const device = softwareAuthenticator()
  const ada = await holder(device)
  const [first, other] = [await world.begin(ada), await world.begin(ada)]
  assert.ok(first.passkey !== undefined && other.passkey !== undefined)
  await refused(world.complete(first.pending, { kind: 'webauthn', response: device.get(other.passkey, { origin }) }))
  await refused(world.complete(first.pending, { kind: 'webauthn', response: device.get(await passkeySignInOptions(factors, visitor, { agent }), { origin }) }))
  await refused(passkeySignIn(factors, identity, visitor, { response: device.get(first.passkey, { origin }), agent }))
  await refused(alone(device, {}, 'curl/8.0'))
  const old = await passkeySignInOptions(factors, visitor, { agent })
  world.travel(5 * 60_000)
  await refused(passkeySignIn(factors, identity, visitor, { response: device.get(old, { origin }), agent }))
  world.travel(0)
})

test('attack: a copied authenticator is told by its counter, refused, and an event', async () => {
  const device = softwareAuthenticator()
  const ada = await holder(device)
  await second(ada, device)
  const copy = device.copy()
  await second(ada, device)
  opened.events.length = 0
  await refused(second(ada, copy))
  assert.ok(opened.events.some((event) => event.type === 'security.credential_cloned' && event.factor === ada.factor && event.actor === ada.id))
  assert.equal((await second(ada, device)).actor, ada.id)
})

test('attack: a forged signature with an old counter raises no such alarm', async () => {
  const device = softwareAuthenticator()
  const ada = await holder(device)
  await second(ada, device)
  const copy = softwareAuthenticator()
  const { person } = await world.person()
  copy.create(await passkeyOptions(factors, person, { account: 'x' }), { origin })
  const { pending, passkey } = await world.begin(ada)
  assert.ok(passkey !== undefined)
  const forged = { ...copy.get(passkey, { origin }), id: passkey.allowCredentials?.[0]?.id ?? '', rawId: passkey.allowCredentials?.[0]?.id ?? '' }
  opened.events.length = 0
  await refused(world.complete(pending, { kind: 'webauthn', response: forged }))
  assert.ok(!opened.events.some((event) => event.type === 'security.credential_cloned'))
})

test('attack: another person’s credential, also with one’s own name in the answer', async () => {
  const [hers, his] = [softwareAuthenticator(), softwareAuthenticator()]
  const ada = await holder(hers)
  const ben = await holder(his)
  const { pending, passkey } = await world.begin(ada)
  assert.ok(passkey !== undefined)
  await refused(world.complete(pending, { kind: 'webauthn', response: his.get({ ...passkey, allowCredentials: [] }, { origin }) }))
  const response = his.get(await passkeySignInOptions(factors, visitor, { agent }), { origin })
  await refused(passkeySignIn(factors, identity, visitor, { response: { ...response, response: { ...response.response, userHandle: Buffer.from(ada.id.replaceAll('-', ''), 'hex').toString('base64url') } }, agent }))
  assert.equal((await alone(his)).actor, ben.id)
})

test('attack: a public key put in the place of another in the table opens nothing', async () => {
  const [hers, his] = [softwareAuthenticator(), softwareAuthenticator()]
  const ada = await holder(hers)
  const ben = await holder(his)
  await database.admin('update redoubt.mfa_factors a set secret_enc = b.secret_enc from redoubt.mfa_factors b where a.id = $1 and b.id = $2', [ada.factor, ben.factor])
  await assert.rejects(second(ada, hers), (error) => error instanceof Refusal && error.code === 'sealed_value_refused')
})

test('a suspended account’s passkey signs nobody in, and an unknown one looks the same as a wrong one', async () => {
  const device = softwareAuthenticator()
  const ada = await holder(device)
  await database.admin(`update redoubt.users set status = 'suspended' where id = $1`, [ada.id])
  await refused(alone(device), 'forbidden')
  const stranger = softwareAuthenticator()
  const { person } = await world.person()
  stranger.create(await passkeyOptions(factors, person, { account: 'x' }), { origin })
  await refused(alone(stranger))
})

test('passkeys are for host names under TLS, and for localhost', () => {
  const { keyring } = factors
  for (const good of ['https://therapy.example', 'http://localhost:4310', 'https://localhost']) openPasskeys({ origin: good, name: 'x', keyring })
  for (const bad of ['http://therapy.example', 'https://192.0.2.1', 'http://127.0.0.1:4310', 'http://[::1]', 'https://therapy.example/', 'https://therapy.example/x']) {
    assert.throws(() => openPasskeys({ origin: bad, name: 'x', keyring }), TypeError, bad)
  }
})
