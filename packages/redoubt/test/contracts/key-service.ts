import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { Refusal } from '../../src/errors.ts'
import type { KeyService } from '../../src/kms.ts'

export const refusedWith = (code: string) => (error: unknown) => error instanceof Refusal && error.code === code

/** Code and detail of the refusal; fails when there is none. */
export async function refusalOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => assert.fail('was not refused'),
    (thrown: unknown) => thrown,
  )
  assert.ok(error instanceof Refusal, String(error))
  return `${error.code}: ${error.detail ?? ''}`
}

export type ContractOptions = {
  /** Why this double takes {a:'bc'} and {ab:'c'} for one, where it does; the real service does not. */
  readonly blindToSeams?: string
  /** Why nothing can be asked of it here. */
  readonly skip?: string | undefined
}

/**
 * What every key service does, whatever stands behind it.
 * @param open a service that works
 * @param openOther one under another root
 */
export function keyServiceContract(name: string, open: () => Promise<KeyService>, openOther: () => Promise<KeyService>, options: ContractOptions = {}): void {
  if (options.skip !== undefined) {
    test(`${name}: the contract of key services`, { skip: options.skip }, () => undefined)
    return
  }
  const context = { realm: 'therapy', purpose: 'data', version: '1' }

  test(`${name}: a generated key has 32 bytes and comes back under its context`, async () => {
    const service = await open()
    const { key, wrapped } = await service.generate(context)
    assert.equal(key.length, 32)
    assert.equal(wrapped.provider, service.provider)
    assert.ok(!wrapped.blob.includes(key))
    assert.deepEqual(await service.unwrap(wrapped, context), key)
    service.close()
  })

  test(`${name}: a key given is wrapped, never twice to the same bytes, and the order of the context does not matter`, async () => {
    const service = await open()
    const key = randomBytes(32)
    const first = await service.wrap(key, context)
    const second = await service.wrap(key, { version: '1', purpose: 'data', realm: 'therapy' })
    assert.notDeepEqual(first.blob, second.blob)
    assert.deepEqual(await service.unwrap(first, { version: '1', purpose: 'data', realm: 'therapy' }), key)
    assert.deepEqual(await service.unwrap(second, context), key)
    service.close()
  })

  test(`${name}: another context is refused: value, letter case, missing, added`, async () => {
    const service = await open()
    const { wrapped } = await service.generate({ a: 'bc', d: 'é'.repeat(500) })
    for (const other of [{ a: 'bd', d: 'é'.repeat(500) }, { a: 'bc' }, { a: 'bc', d: 'é'.repeat(500), e: '' }, { a: 'bc', d: 'é'.repeat(499) }, { A: 'bc', d: 'é'.repeat(500) }]) {
      await assert.rejects(service.unwrap(wrapped, other), refusedWith('key_refused'))
    }
    service.close()
  })

  test(`${name}: a letter moved from the value to the name is another context`, { skip: options.blindToSeams ?? false }, async () => {
    const service = await open()
    const { wrapped } = await service.generate({ a: 'bc' })
    await assert.rejects(service.unwrap(wrapped, { ab: 'c' }), refusedWith('key_refused'))
    service.close()
  })

  test(`${name}: attack: wrong context, record of another context and an altered record are told apart by nobody`, async () => {
    const service = await open()
    const [one, other] = [await service.generate(context), await service.generate({ ...context, purpose: 'index' })]
    const altered = Buffer.from(one.wrapped.blob)
    altered[altered.length - 1] = (altered.at(-1) ?? 0) ^ 1
    const said = await Promise.all([
      refusalOf(service.unwrap(one.wrapped, { ...context, realm: 'another' })),
      refusalOf(service.unwrap(other.wrapped, context)),
      refusalOf(service.unwrap({ ...one.wrapped, blob: altered }, context)),
    ])
    assert.equal(new Set(said).size, 1, said.join('\n'))
    service.close()
  })

  test(`${name}: what cannot be a wrapped key of this service is refused`, async () => {
    const service = await open()
    const { wrapped } = await service.generate(context)
    for (const forged of [{ ...wrapped, keyRef: '' }, { ...wrapped, keyRef: `${wrapped.keyRef}x` }, { ...wrapped, keyRef: 'x'.repeat(5000) }, { ...wrapped, blob: randomBytes(7000) }]) {
      await assert.rejects(service.unwrap(forged, context), refusedWith('key_refused'))
    }
    service.close()
  })

  test(`${name}: a context of 4 KiB with letters of every kind is bound as it is`, async () => {
    const service = await open()
    const long = { realm: 'Пациент 患者 🫀', note: 'é'.repeat(2_000) }
    const { key, wrapped } = await service.generate(long)
    assert.deepEqual(await service.unwrap(wrapped, long), key)
    await assert.rejects(service.unwrap(wrapped, { ...long, realm: 'Пациент 患者 🫁' }), refusedWith('key_refused'))
    service.close()
  })

  test(`${name}: a rewrapped key is the same key, bound to the same context`, async () => {
    const service = await open()
    // The two that cannot: their keys are unwrapped and wrapped.
    assert.equal(service.rewrap === undefined, ['local', 'azure'].includes(service.provider))
    if (service.rewrap === undefined) return
    const { key, wrapped } = await service.generate(context)
    const again = await service.rewrap(wrapped, context)
    assert.notDeepEqual(again.blob, wrapped.blob)
    assert.deepEqual(await service.unwrap(again, context), key)
    await assert.rejects(service.unwrap(again, { ...context, version: '2' }), refusedWith('key_refused'))
    await assert.rejects(service.rewrap(wrapped, { ...context, version: '2' }), refusedWith('key_refused'))
    service.close()
  })

  test(`${name}: altered, cut and empty blobs are refused`, async () => {
    const service = await open()
    const { wrapped } = await service.generate(context)
    for (let at = 0; at < wrapped.blob.length; at++) {
      const blob = Buffer.from(wrapped.blob)
      blob[at] = (blob[at] ?? 0) ^ 1
      await assert.rejects(service.unwrap({ ...wrapped, blob }, context), refusedWith('key_refused'))
    }
    for (const length of [0, 1, 16, wrapped.blob.length - 1]) {
      await assert.rejects(service.unwrap({ ...wrapped, blob: wrapped.blob.subarray(0, length) }, context), refusedWith('key_refused'))
    }
    service.close()
  })

  test(`${name}: a key wrapped by another provider or under another root is refused`, async () => {
    const [service, other] = [await open(), await openOther()]
    const { wrapped } = await other.generate(context)
    await assert.rejects(service.unwrap(wrapped, context), refusedWith('key_refused'))
    const mine = await service.wrap(randomBytes(32), context)
    await assert.rejects(service.unwrap({ ...wrapped, keyRef: mine.keyRef }, context), refusedWith('key_refused'))
    await assert.rejects(service.unwrap({ ...mine, provider: 'another' }, context), refusedWith('key_refused'))
    service.close()
    other.close()
  })

  test(`${name}: wraps nothing but 32 bytes, binds nothing to an empty context`, async () => {
    const service = await open()
    await assert.rejects(service.wrap(randomBytes(16), context), TypeError)
    await assert.rejects(service.wrap(randomBytes(32), {}), TypeError)
    service.close()
  })

  test(`${name}: answers a check, and nothing after close`, async () => {
    const service = await open()
    await service.check()
    service.close()
    await assert.rejects(service.generate(context), refusedWith('key_service_unavailable'))
    await assert.rejects(service.check(), refusedWith('key_service_unavailable'))
  })
}
