import { randomBytes } from 'node:crypto'
import { KEY_BYTES } from '../aead.ts'
import type { Emit } from '../events.ts'
import type { KeyContext, KeyService, WrappedKey } from '../kms.ts'
import { framed } from '../bytes.ts'
import { openResilience, type Patience } from './resilience.ts'
import { refusalOf, type Trouble } from './trouble.ts'

/** A key and its blob as the provider names them; what the port adds around it is the same for all. */
export type Wrapping = { readonly keyRef: string; readonly blob: Buffer }

/** What a provider has to bring: single attempts, each ending when its signal aborts. */
export type RemoteKey = {
  readonly provider: KeyService['provider']
  readonly classify: (error: unknown) => Trouble
  /** Only where the service makes keys itself. */
  generate?(context: KeyContext, signal: AbortSignal): Promise<{ readonly key: Buffer } & Wrapping>
  wrap(key: Buffer, context: KeyContext, signal: AbortSignal): Promise<Wrapping>
  unwrap(wrapping: Wrapping, context: KeyContext, signal: AbortSignal): Promise<Buffer>
  /** Only where the service does it without showing the key. */
  rewrap?(wrapping: Wrapping, context: KeyContext, signal: AbortSignal): Promise<Wrapping>
  close(): void
}

/** Most bytes of a wrapped key and of the name of its wrapping key: what the table holds. */
const mostBlob = 6144
const mostRef = 2048

/**
 * The context as bytes, for services that take bytes: sorted, each part behind its length, so that {a:'bc'} and
 * {ab:'c'} differ and {a,b} and {b,a} do not.
 * @throws TypeError when it is empty
 */
export function contextBytes(purpose: string, context: KeyContext): Buffer {
  return framed([purpose, ...pairsOf(context).flat()])
}

function pairsOf(context: KeyContext): readonly (readonly [string, string])[] {
  const pairs = Object.entries(context)
  if (pairs.length === 0) throw new TypeError('key service: context must not be empty')
  return pairs.sort(([a], [b]) => (a < b ? -1 : 1))
}

function keyOf32(bytes: Buffer): Buffer {
  if (bytes.length === KEY_BYTES) return bytes
  bytes.fill(0)
  throw refusalOf('refused')
}

/** The port over a provider: bounds, retries and refusals are the same for all of them. */
export function remoteKeyService(remote: RemoteKey, options: { readonly patience?: Patience; readonly emit?: Emit }): KeyService {
  const { provider } = remote
  const resilience = openResilience({
    provider,
    classify: remote.classify,
    ...(options.patience === undefined ? {} : { patience: options.patience }),
    ...(options.emit === undefined ? {} : { emit: options.emit }),
  })

  function stored(wrapping: Wrapping): WrappedKey {
    const { keyRef, blob } = wrapping
    if (blob.length === 0 || blob.length > mostBlob || keyRef === '' || keyRef.length > mostRef) throw refusalOf('unusable')
    return { provider, keyRef, blob }
  }

  /** What cannot be ours is refused before anything is sent. */
  function ours(wrapped: WrappedKey): Wrapping {
    const { keyRef, blob } = wrapped
    if (wrapped.provider !== provider || blob.length === 0 || blob.length > mostBlob || keyRef === '' || keyRef.length > mostRef) throw refusalOf('refused')
    return { keyRef, blob }
  }

  async function wrap(key: Buffer, context: KeyContext): Promise<WrappedKey> {
    if (key.length !== KEY_BYTES) throw new TypeError('wrap: key must be 32 bytes')
    pairsOf(context)
    return stored(await resilience.run((signal) => remote.wrap(key, context, signal)))
  }

  async function generate(context: KeyContext): Promise<{ readonly key: Buffer; readonly wrapped: WrappedKey }> {
    pairsOf(context)
    const make = remote.generate
    if (make === undefined) {
      const key = randomBytes(KEY_BYTES)
      return { key, wrapped: await wrap(key, context) }
    }
    const made = await resilience.run((signal) => make(context, signal))
    return { key: keyOf32(made.key), wrapped: stored(made) }
  }

  async function unwrap(wrapped: WrappedKey, context: KeyContext): Promise<Buffer> {
    pairsOf(context)
    const wrapping = ours(wrapped)
    return keyOf32(await resilience.run((signal) => remote.unwrap(wrapping, context, signal)))
  }

  const again = remote.rewrap
  return {
    provider,
    wrap,
    generate,
    unwrap,
    ...(again === undefined
      ? {}
      : {
          async rewrap(wrapped, context) {
            pairsOf(context)
            const wrapping = ours(wrapped)
            return stored(await resilience.run((signal) => again(wrapping, context, signal)))
          },
        }),
    async check() {
      // A whole turn: that a key is described as enabled does not show that this identity may use it.
      const context = { use: 'redoubt check' }
      const { key, wrapped } = await generate(context)
      const back = await unwrap(wrapped, context)
      const same = back.equals(key)
      key.fill(0)
      back.fill(0)
      if (!same) throw refusalOf('refused')
    },
    close() {
      resilience.close()
      remote.close()
    },
  }
}
