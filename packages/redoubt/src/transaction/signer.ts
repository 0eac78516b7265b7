import { createHmac, createSecretKey, randomBytes, type KeyObject } from 'node:crypto'
import type { Caller } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Pool } from '../pg.ts'

/** Signs callers for one database; the key lives in this process and, as padded blocks, in guard.caller_keys. */
export type Signer = {
  /**
   * The value of the `redoubt.caller` setting. Called when the statement is sent: it holds for ten seconds.
   * @param entry id of the one audit entry that may be written under this signature; null where none may
   */
  sign(caller: Caller, action: string, entry: string | null): string
  close(): Promise<void>
}

/** Hours a key is accepted, and hours after which it is replaced: the overlap outlives any transaction. */
const lifeHours = 26
const replaceAfter = 24 * 3_600_000
/**
 * Milliseconds between two looks at the time the key has left. An operator shortens it to have every process replace its
 * key (`redoubt keys rotate caller`, guard.expire_caller_keys); what is given then must be a multiple of this.
 */
const lookEvery = 30_000
/** 1 for the codes of the characters a field may have. By hand: six fields are looked at twice in every call. */
const allowed = new Uint8Array(128)
for (const character of 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-') allowed[character.charCodeAt(0)] = 1

/** At most 128 letters, digits and ._:/- */
function isField(value: unknown): boolean {
  if (typeof value !== 'string' || value.length > 128) return false
  for (let i = 0; i < value.length; i++) if (allowed[value.charCodeAt(i)] !== 1) return false
  return true
}

/**
 * Asked before a connection is taken: what cannot be signed cannot be done.
 * @throws TypeError when a field has a character outside letters, digits and ._:/- or more than 128 of them
 */
export function checkCaller(caller: Caller, action: string): void {
  const { actor, role, tenant, session, requestId } = caller
  if (!(isField(actor ?? '') && isField(role) && isField(tenant) && isField(session ?? '') && isField(action) && isField(requestId))) {
    throw new TypeError('caller: actor, role, tenant, session, action and request id are at most 128 letters, digits and ._:/-')
  }
}

/**
 * The text that is signed: no field can contain the bar, so no two callers give the same text.
 * @throws TypeError as checkCaller
 */
export function callerText(kid: string, audience: string, caller: Caller, action: string, entry: string | null, now: number): string {
  checkCaller(caller, action)
  const { actor, role, tenant, session, requestId } = caller
  return `v1|${kid}|${audience}|${actor ?? ''}|${role}|${tenant}|${session ?? ''}|${action}|${requestId}|${entry ?? ''}|${now}`
}

/** The two padded blocks of RFC 2104, from which the database computes the same HMAC with sha256() alone. */
export function hmacPads(key: Buffer): { readonly inner: Buffer; readonly outer: Buffer } {
  const block = Buffer.alloc(64)
  key.copy(block)
  return { inner: Buffer.from(block.map((byte) => byte ^ 0x36)), outer: Buffer.from(block.map((byte) => byte ^ 0x5c)) }
}

type Current = { readonly kid: string; readonly key: KeyObject }

/**
 * Makes a key of this process's own, installs it through the keys role and replaces it daily. No secret is configured
 * and none is shared between instances; a restore starts with an empty table because dumps leave it out.
 * @param keys pool of the keys role, in the database the gate works on
 * @param service the service's name; audience is `<service>/<database>`
 * @throws Refusal caller_refused when this machine's clock is more than five seconds from the database's
 */
export async function openSigner(keys: Pool, service: string, now: () => number = Date.now): Promise<Signer> {
  const before = now()
  const [server] = await keys.query<{ database: string; clock: number }>({
    text: `select current_database() as database, date_part('epoch', clock_timestamp()) * 1000 as clock`,
    values: [],
  })
  if (server === undefined) throw new Refusal('database_unavailable')
  // Half of the ten seconds that the verifier allows; the other half is for drift until the next start.
  const skew = Math.abs((before + now()) / 2 - server.clock)
  if (skew > 5_000) throw new Refusal('caller_refused', { detail: `the clocks of this machine and the database differ by ${Math.round(skew)} ms; at most 5000 are accepted` })
  const audience = `${service}/${server.database}`
  if (!isField(audience)) throw new TypeError('openSigner: service and database name are letters, digits and ._:/-')

  async function install(): Promise<Current> {
    const kid = randomBytes(12).toString('base64url')
    const secret = randomBytes(32)
    const { inner, outer } = hmacPads(secret)
    await keys.query({ text: 'select guard.install_caller_key($1, $2, $3, $4)', values: [kid, inner, outer, lifeHours] })
    const key = createSecretKey(secret)
    for (const bytes of [secret, inner, outer]) bytes.fill(0)
    return { kid, key }
  }

  let current = await install()
  const used = [current.kid]
  let due = now() + replaceAfter
  let looking = false

  /** A key that is gone, in a restored database or by an operator's hand, has no time left. */
  async function isDue(): Promise<boolean> {
    if (now() >= due) return true
    const [left] = await keys.query<{ readonly seconds: number | null }>({ name: 'redoubt_caller_key_seconds', text: 'select guard.caller_key_seconds($1) as seconds', values: [current.kid] })
    return (left?.seconds ?? 0) < lifeHours * 3600 - replaceAfter / 1000
  }

  // What fails is tried again at the next look; a key that is a day old holds for two more hours, then the gate refuses.
  async function look(): Promise<void> {
    if (looking) return
    looking = true
    try {
      if (!(await isDue())) return
      current = await install()
      used.push(current.kid)
      due = now() + replaceAfter
    } finally {
      looking = false
    }
  }

  const timer = setInterval(() => void look().catch(() => undefined), lookEvery)
  timer.unref()

  return {
    sign(caller, action, entry) {
      const text = callerText(current.kid, audience, caller, action, entry, now())
      return `${text}|${createHmac('sha256', current.key).update(text).digest('hex')}`
    },
    async close() {
      clearInterval(timer)
      for (const kid of used) await keys.query({ text: 'select guard.drop_caller_key($1)', values: [kid] })
    },
  }
}
