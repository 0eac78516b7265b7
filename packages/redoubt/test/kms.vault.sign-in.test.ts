import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { after, test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { openKeyService, type KeyService, type KeyServiceOptions } from '../src/kms.ts'
import type { VaultSignIn } from '../src/kms/vault-token.ts'
import type { VaultOptions } from '../src/kms/vault.ts'
import { refusalOf, refusedWith } from './contracts/key-service.ts'
import { selfSigned } from './support/certificate.ts'
import { secretFolder } from './support/keys.ts'
import { startVault, type FakeVault } from './support/vault.ts'

const folder = await secretFolder()
const vaults: FakeVault[] = []
after(async () => {
  for (const vault of vaults) await vault.close()
  await folder.remove()
})
const context = { realm: 'therapy' }
let files = 0

async function file(text: string): Promise<string> {
  const path = `${folder.path}/${files++}`
  await writeFile(path, text, { mode: 0o600 })
  return path
}

async function fresh(options: Parameters<typeof startVault>[0] = {}): Promise<FakeVault> {
  const vault = await startVault(options)
  vaults.push(vault)
  vault.transit('POST', 'keys/root', { derived: true })
  return vault
}

function open(vault: FakeVault, signIn: VaultSignIn, more: Partial<VaultOptions> = {}, options: Partial<KeyServiceOptions> = {}): Promise<KeyService> {
  return openKeyService('vault:transit/root', { production: false, ...options, vault: { address: vault.origin, signIn, ...more } })
}

async function appRole(vault: FakeVault): Promise<VaultSignIn> {
  return { method: 'approle', roleId: vault.roleId, secretIdFile: await file(vault.secretId) }
}

const logins = (vault: FakeVault): number => vault.requests.filter(({ path }) => path.endsWith('/login')).length
const renewals = (vault: FakeVault): number => vault.requests.filter(({ path }) => path === 'auth/token/renew-self').length

/** Timers that fire when the test says so. */
function timers() {
  let now = 0
  let next: { at: number; run: () => void } | null = null
  return {
    given: {
      clock: () => now,
      random: () => 0.5,
      after: (milliseconds: number, then: () => void) => {
        const mine = { at: now + milliseconds, run: then }
        next = mine
        return () => void (next = next === mine ? null : next)
      },
    },
    due: () => (next === null ? null : next.at - now),
    /** Lets time pass; what is due by then is done first. */
    async pass(vault: FakeVault, milliseconds: number): Promise<void> {
      const end = now + milliseconds
      while (next !== null && next.at <= end) {
        const { at, run } = next
        vault.advance(at - now)
        now = at
        next = null
        const before = vault.requests.length
        run()
        while (vault.requests.length === before) await turn()
        // The answer has to come back before the next thing is planned.
        for (let turns = 0; next === null && turns < 2_000; turns++) await turn()
      }
      vault.advance(end - now)
      now = end
    },
  }
}

test('fifty cold calls sign in once; fifty calls whose token was revoked sign in once more', async () => {
  const vault = await fresh()
  const time = timers()
  const service = await open(vault, await appRole(vault), { timers: time.given })
  const made = await Promise.all(Array.from({ length: 50 }, () => service.generate(context)))
  assert.equal(logins(vault), 1)
  await time.pass(vault, 60_000)
  vault.revokeAll()
  await Promise.all(made.map(async ({ key, wrapped }) => assert.deepEqual(await service.unwrap(wrapped, context), key)))
  assert.equal(logins(vault), 2)
  service.close()
})

test('a token is renewed at two thirds of its life, and replaced by a sign-in at the end of its longest', async () => {
  const vault = await fresh()
  vault.lease(600, 1_500)
  const time = timers()
  const service = await open(vault, await appRole(vault), { timers: time.given })
  const { key, wrapped } = await service.generate(context)
  assert.equal(time.due(), 400_000)
  await time.pass(vault, 400_000)
  assert.deepEqual([logins(vault), renewals(vault)], [1, 1])
  await time.pass(vault, 400_000)
  await time.pass(vault, 400_000)
  // The third renewal was given 300 s of the 600 asked for: the longest life is near.
  assert.deepEqual([logins(vault), renewals(vault)], [1, 3])
  const due = time.due() ?? 0
  assert.ok(due > 198_000 && due <= 200_000, String(due))
  await time.pass(vault, 200_000)
  assert.deepEqual([logins(vault), renewals(vault)], [2, 3])
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  service.close()
  assert.equal(time.due(), null)
})

test('the moment of renewal is spread by a tenth of the life to either side', async () => {
  const vault = await fresh()
  for (const [random, due] of [[0, 0.5667], [0.999999, 0.7667]] as const) {
    const time = timers()
    const service = await open(vault, await appRole(vault), { timers: { ...time.given, random: () => random } })
    await service.generate(context)
    assert.ok(Math.abs((time.due() ?? 0) / 3_600_000 - due) < 0.001)
    service.close()
  }
})

test('a service that is away when a renewal is due is asked again while the token lives', async () => {
  const vault = await fresh()
  vault.lease(600, 86_400)
  const time = timers()
  const service = await open(vault, await appRole(vault), { timers: time.given })
  const { key, wrapped } = await service.generate(context)
  vault.seal(true)
  await time.pass(vault, 450_000)
  assert.ok(renewals(vault) >= 1)
  vault.seal(false)
  await time.pass(vault, 140_000)
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  assert.equal(logins(vault), 1)
  service.close()
})

test('a token that ran out while the process slept is replaced at the next call', async () => {
  const vault = await fresh()
  vault.lease(60, 86_400)
  const time = timers()
  const service = await open(vault, await appRole(vault), { timers: { ...time.given, after: () => () => undefined } })
  const { key, wrapped } = await service.generate(context)
  await time.pass(vault, 61_000)
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  assert.equal(logins(vault), 2)
  service.close()
})

test('attack: a policy that denies does not turn each call into a sign-in', async () => {
  const vault = await fresh()
  vault.policy({ 'transit/keys/*': ['read'] })
  const service = await open(vault, await appRole(vault))
  for (let call = 0; call < 5; call++) assert.match(await refusalOf(service.generate(context)), /^key_refused: the key service denies/)
  assert.equal(logins(vault), 1)
  service.close()
})

test('a wrong secret id is refused at the first word and not tried again by itself', async () => {
  const vault = await fresh()
  const service = await open(vault, { method: 'approle', roleId: vault.roleId, secretIdFile: await file('wrong') })
  assert.match(await refusalOf(service.generate(context)), /^key_service_unavailable: .*does not accept who we are/)
  assert.equal(logins(vault), 1)
  const without = await open(vault, { method: 'approle', roleId: vault.roleId, secretIdFile: `${folder.path}/none` })
  assert.match(await refusalOf(without.generate(context)), /does not accept who we are/)
})

test('a wrapped secret id is opened once; attack: one that somebody opened before us is a refusal', async () => {
  const vault = await fresh()
  const secretIdFile = await file(vault.wrapSecretId())
  const signIn = { method: 'approle', roleId: vault.roleId, secretIdFile, wrapped: true } as const
  const time = timers()
  const service = await open(vault, signIn, { timers: time.given })
  const { key, wrapped } = await service.generate(context)
  await time.pass(vault, 60_000)
  vault.revokeAll()
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  const thief = await open(vault, signIn)
  assert.match(await refusalOf(thief.generate(context)), /does not accept who we are/)
  service.close()
})

test('Kubernetes and token files are read anew at each sign-in', async () => {
  const vault = await fresh()
  const [jwtFile, tokenFile] = [await file(vault.jwt), await file(`${vault.token({})}\n`)]
  for (const signIn of [{ method: 'kubernetes', role: 'redoubt', jwtFile }, { method: 'token-file', file: tokenFile }] as const) {
    const time = timers()
    const service = await open(vault, signIn, { timers: time.given })
    const { key, wrapped } = await service.generate(context)
    await time.pass(vault, 60_000)
    vault.revokeAll()
    await writeFile(tokenFile, vault.token({}))
    assert.deepEqual(await service.unwrap(wrapped, context), key)
    service.close()
  }
  const wrong = await open(vault, { method: 'kubernetes', role: 'another', jwtFile })
  assert.match(await refusalOf(wrong.generate(context)), /does not accept who we are/)
})

test('a namespace is sent with every request, the sign-in too', async () => {
  const vault = await fresh({ namespace: 'team/payments' })
  const service = await open(vault, await appRole(vault), { namespace: 'team/payments' })
  await service.check()
  service.close()
  const outside = await open(vault, await appRole(vault))
  await assert.rejects(outside.check(), refusedWith('key_service_unavailable'))
})

test('attack: a server whose certificate is not of the named authority gets no credentials', async () => {
  const certificate = selfSigned()
  const vault = await fresh({ certificate })
  const caFile = await file(certificate.cert)
  const trusting = await open(vault, await appRole(vault), { caFile })
  await trusting.check()
  trusting.close()
  const seen = vault.requests.length
  for (const more of [{}, { caFile: await file(selfSigned().cert) }]) {
    const service = await open(vault, await appRole(vault), more)
    assert.match(await refusalOf(service.check()), /^key_service_unavailable: the certificate of the key service is not trusted/)
  }
  assert.equal(vault.requests.length, seen)
  await assert.rejects(open(vault, await appRole(vault), { caFile: await file('no certificate') }), refusedWith('key_service_unavailable'))
  await assert.rejects(open(vault, await appRole(vault), { caFile: `${folder.path}/none` }), refusedWith('key_service_unavailable'))
})

test('attack: a key that is not derived ignores the context, so it is refused; in production an exportable one too', async () => {
  const vault = await fresh()
  vault.transit('POST', 'keys/plain', {})
  vault.transit('POST', 'keys/exportable', { derived: true, exportable: true })
  const tokenFile = await file(vault.token({}))
  const at = (where: string, production: boolean): Promise<KeyService> =>
    openKeyService(`vault:${where}`, { production, vault: { address: vault.origin, signIn: { method: 'token-file', file: tokenFile } } })
  assert.match(await refusalOf((await at('transit/plain', false)).generate(context)), /^key_refused: the key cannot be used this way/)
  assert.match(await refusalOf((await at('transit/exportable', true)).generate(context)), /^key_refused: the key cannot be used this way/)
  await (await at('transit/exportable', false)).check()
})

test('attack: the root token is refused in production', async () => {
  const vault = await fresh()
  const signIn = { method: 'token-file', file: await file(vault.token({ policies: ['root'], ttl: 0 })) } as const
  await (await open(vault, signIn)).check()
  assert.match(await refusalOf((await open(vault, signIn, {}, { production: true })).check()), /does not accept who we are/)
})

test('a key that is not there is refused and not made by the way', async () => {
  const vault = await fresh()
  vault.policy({ 'transit/*': ['create', 'update', 'read'] })
  const service = await openKeyService('vault:transit/missing', { production: false, vault: { address: vault.origin, signIn: await appRole(vault) } })
  assert.match(await refusalOf(service.wrap(Buffer.alloc(32, 1), context)), /^key_refused: the key is deleted/)
  await assert.rejects(async () => vault.transit('GET', 'keys/missing'))
})

test('after a rotation old wrapped keys open, new ones and rewrapped ones are of the new version, retired ones are refused', async () => {
  const vault = await fresh()
  const service = await open(vault, await appRole(vault))
  const { key, wrapped } = await service.generate(context)
  assert.equal(wrapped.keyRef, 'transit/root:v1')
  vault.transit('POST', 'keys/root/rotate')
  assert.deepEqual(await service.unwrap(wrapped, context), key)
  const again = await service.rewrap?.(wrapped, context)
  assert.equal(again?.keyRef, 'transit/root:v2')
  vault.transit('POST', 'keys/root/config', { min_decryption_version: 2 })
  assert.match(await refusalOf(service.unwrap(wrapped, context)), /^key_refused: this version of the key/)
  assert.deepEqual(await service.unwrap(again ?? wrapped, context), key)
  service.close()
})
