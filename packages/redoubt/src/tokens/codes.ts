import { createHmac, randomBytes } from 'node:crypto'
import { framed, newId } from '../bytes.ts'
import type { Caller } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { Emit } from '../events.ts'
import type { IndexKey, Keyring } from '../keyring.ts'
import type { Statement, Tx } from '../pg.ts'
import { kernelTables } from '../tables/kernel.ts'
import { transaction } from '../transaction.ts'
import type { Actions, Gate } from '../transaction.ts'

/** What a code is for. Which caller may issue and show it is decided by guard.code_rule in the database. */
export type CodePurpose = 'login' | 'step_up' | 'reset' | 'email_verify' | 'email_change' | 'email_undo'

/** domain.md, numbers to pin: tries of one code, and minutes it lives. */
const codeTries = 5
export const codeMinutes = 10

/** The actions of this file, to be spread into an app's table of actions. */
export const codeActions = {
  'auth.code_tried': { audited: false },
  'auth.otp_failed': { audited: true, keep: 'access', purpose: 'account' },
} as const satisfies Actions

export type Issued = {
  readonly id: string
  /** 256 bits, base64url: for whoever asked. With it alone a code of digits cannot be guessed in five tries. */
  readonly handle: string
  /** What is stored of it. */
  readonly handleHash: Buffer
  /** For the person, by another way than the handle; undefined where the handle is all there is. */
  readonly digits: string | undefined
  readonly expiresAt: Date
}

export type ToIssue = {
  readonly user: string
  readonly purpose: CodePurpose
  /** Digits of the code, 6 to 8; left out: no code, the handle alone. */
  readonly digits?: 6 | 7 | 8
  /** The one thing it is for: a resource, an address. Whoever shows the code must mean the same. */
  readonly context?: string
  /** Default codeMinutes. */
  readonly minutes?: number
}

/** A code for a handle that was given out before. */
export type Promised = {
  /** Id of the code; issuing it again changes nothing. */
  readonly id: string
  /** As hashOf gave it. */
  readonly handleHash: Buffer
}

export type Shown = { readonly purpose: CodePurpose; readonly handle: string; readonly digits?: string | undefined; readonly context?: string | undefined }

export type Codes = {
  /**
   * A new code, in the caller's transaction.
   * @returns undefined when ten of this purpose are open for this person already
   * @throws TypeError for a number of digits or minutes that cannot be meant
   */
  issue(tx: Tx, wanted: ToIssue): Promise<Issued | undefined>
  /** The same for a handle that was given out before. @returns false when ten are open already */
  issueFor(tx: Tx, promised: Promised, wanted: ToIssue): Promise<boolean>
  /** What is stored of a handle, for a request that must be answered before it is known whom it is about. */
  hashOf(purpose: CodePurpose, handle: string): Promise<Buffer>
  /**
   * The digits of a code of this id and handle: the same whenever they are asked for, so that a message can be written
   * when it is sent and nobody has to keep them.
   */
  digitsOf(code: Promised, digits: 6 | 7 | 8): Promise<string>
  /**
   * One try of a code, in a transaction of its own: it counts whatever becomes of the caller's work. The right digits
   * are used up by it; a handle without digits stays open until it is redeemed or tried five times.
   * @returns the code's id, for the database function that does what it allows, and whose it is
   * @throws Refusal code_refused: unknown, wrong, used, too old, tried too often, or meant for something else
   */
  show(caller: Caller, given: Shown): Promise<{ readonly id: string; readonly user: string }>
  /**
   * Uses up a step-up of the caller in `tx`: it counts if that commits.
   * @returns false for a handle that is unknown, used, too old, somebody else's, or meant for something else
   */
  redeemStepUp(tx: Tx, given: { readonly handle: string; readonly context: string }): Promise<boolean>
}

/** A handle before there is a code for it, so that an answer need not wait for who is behind an address. */
export const newHandle = (): string => randomBytes(32).toString('base64url')

/** Statements that delete what has been over for a day, at most $1 rows; for the worker's sweep. */
export const forgetCodes = {
  name: 'redoubt_forget_codes',
  text: `with gone as (
      delete from redoubt.one_time_codes c where c.id in (
        select o.id from redoubt.one_time_codes o
        where o.expires_at < now() - interval '1 day' and (select pg_try_advisory_xact_lock(7308)) order by o.expires_at limit $1)
      returning 1)
    select count(*)::int as gone from gone`,
} as const

const table = kernelTables['redoubt.one_time_codes'].id

/** Version of the key (1 byte), then HMAC-SHA-256 over the framed parts (docs/formats.md). */
function mac(key: IndexKey, parts: readonly (Buffer | string)[]): Buffer {
  return Buffer.concat([Buffer.from([key.version]), createHmac('sha256', key.key).update(framed(parts)).digest()])
}

const handleHash = (key: IndexKey, purpose: CodePurpose, handle: string): Buffer => mac(key, ['redoubt code handle', purpose, handle])
const codeHash = (key: IndexKey, purpose: CodePurpose, handle: Buffer, digits: string): Buffer => mac(key, ['redoubt code', purpose, handle, digits])
const contextHash = (key: IndexKey, purpose: CodePurpose, context: string): Buffer => mac(key, ['redoubt code context', purpose, context])

/** Decimal digits by a keyed function of the row: nobody without the key can tell them, and nothing keeps them (bias below 2^-37). */
function digitsOf(key: IndexKey, id: string, hash: Buffer, length: number): string {
  const value = mac(key, ['redoubt code digits', id, hash]).readBigUInt64BE(1)
  return String(value % 10n ** BigInt(length)).padStart(length, '0')
}

type Row = {
  readonly id: string
  readonly user_id: string
  readonly tenant: string
  readonly handle_hash: Buffer
  readonly code_hash: Buffer | null
  readonly context_hash: Buffer | null
  readonly expires_at: Date
}

type Tried = Row & { readonly answer: 'right' | 'wrong'; readonly binding: Buffer }

const none = Buffer.alloc(0)

/** The row as it was issued. Purpose and account stand in it, so that neither can be exchanged by who writes the table. */
function bindingOf(key: IndexKey, purpose: CodePurpose, row: Row): Buffer {
  const { id, user_id, tenant, handle_hash, code_hash, context_hash, expires_at } = row
  return mac(key, ['redoubt code row', id, purpose, user_id, tenant, handle_hash, code_hash ?? none, context_hash ?? none, String(expires_at.getTime())])
}

/**
 * One-time codes: digits for people, 256-bit handles for what continues a request. The database keeps HMACs and counts;
 * digits are bound to the handle that the asker holds, so that knowing an address is not enough to try them.
 * @param settings.keyring gives the HMAC key, in every version that still verifies
 * @param settings.gate with codeActions among its actions
 */
export function openCodes(settings: { readonly keyring: Pick<Keyring, 'indexKeys'>; readonly gate: Gate<typeof codeActions & Actions>; readonly emit: Emit }): Codes {
  const { keyring, gate, emit } = settings
  const keys = (): Promise<readonly IndexKey[]> => keyring.indexKeys(table, 1)

  /** The key of a version, or the one to write with. */
  async function keyOf(version?: number): Promise<IndexKey> {
    const versions = await keys()
    const key = version === undefined ? versions[0] : versions.find((one) => one.version === version)
    if (key === undefined) throw new Refusal('key_refused')
    return key
  }

  async function put(tx: Tx, key: IndexKey, { id, handleHash: hash }: Promised, wanted: ToIssue): Promise<{ readonly digits: string | undefined; readonly expiresAt: Date } | undefined> {
    const { user, purpose, digits: length, context, minutes = codeMinutes } = wanted
    if (length !== undefined && ![6, 7, 8].includes(length)) throw new TypeError(`issue: digits must be 6, 7 or 8, not ${String(length)}`)
    if (!Number.isInteger(minutes) || minutes < 1 || minutes > 8 * 24 * 60) throw new TypeError('issue: minutes must be a whole number from 1 to 11520')
    const digits = length === undefined ? undefined : digitsOf(key, id, hash, length)
    const row: Row = {
      id, user_id: user, tenant: tx.caller.tenant, handle_hash: hash, expires_at: new Date(Date.now() + minutes * 60_000),
      code_hash: digits === undefined ? null : codeHash(key, purpose, hash, digits),
      context_hash: context === undefined ? null : contextHash(key, purpose, context),
    }
    const [made] = await tx.query<{ readonly made: boolean }>({
      name: 'redoubt_issue_code', text: 'select guard.issue_code($1, $2, $3, $4, $5, $6, $7, $8, $9) as made',
      values: [id, user, purpose, hash, row.code_hash, row.context_hash, bindingOf(key, purpose, row), row.expires_at.toISOString(), codeTries],
    })
    if (made?.made !== true) return undefined
    emit({ type: 'auth.code_issued', requestId: tx.caller.requestId, actor: user, purpose })
    return { digits, expiresAt: row.expires_at }
  }

  return Object.freeze<Codes>({
    hashOf: async (purpose, handle) => handleHash(await keyOf(), purpose, handle),
    digitsOf: async ({ id, handleHash: hash }, length) => digitsOf(await keyOf(hash[0]), id, hash, length),
    async issue(tx, wanted) {
      const key = await keyOf()
      const handle = newHandle()
      const promised = { id: newId(), handleHash: handleHash(key, wanted.purpose, handle) }
      const made = await put(tx, key, promised, wanted)
      return made === undefined ? undefined : { ...promised, ...made, handle }
    },
    async issueFor(tx, promised, wanted) {
      if (promised.handleHash.length !== 33) throw new TypeError('issueFor: handleHash must come from hashOf')
      return (await put(tx, await keyOf(promised.handleHash[0]), promised, wanted)) !== undefined
    },
    async show(caller, { purpose, handle, digits, context }) {
      const versions = await keys()
      // A handle out of form, or of nobody, costs the same statements as a wrong code.
      const [found] = await transaction.one(gate, caller, 'auth.code_tried', tryStatement(versions, { purpose, handle, digits, context }))
      const whole = found?.answer === 'right' && versions.some((key) => bindingOf(key, purpose, found).equals(found.binding))
      if (found !== undefined && whole) return { id: found.id, user: found.user_id }
      const about = found === undefined ? {} : { resource: { type: 'user', id: found.user_id } }
      await transaction(gate, caller, { action: 'auth.otp_failed', ...about }, () => Promise.resolve())
      emit({ type: 'auth.otp_failed', requestId: caller.requestId, purpose, reason: found === undefined ? 'unknown' : found.answer === 'right' ? 'tampered' : 'wrong' })
      throw new Refusal('code_refused')
    },
    async redeemStepUp(tx, { handle, context }) {
      const versions = await keys()
      const [found] = await tx.query<Row & { readonly binding: Buffer }>({
        name: 'redoubt_redeem_step_up',
        text: 'select id, user_id, tenant, handle_hash, code_hash, context_hash, binding, expires_at from guard.redeem_step_up($1, $2)',
        values: [versions.map((key) => handleHash(key, 'step_up', handle)), versions.map((key) => contextHash(key, 'step_up', context))],
      })
      return found !== undefined && versions.some((key) => bindingOf(key, 'step_up', found).equals(found.binding))
    },
  })
}

function tryStatement(versions: readonly IndexKey[], { purpose, handle, digits, context }: Shown): Statement<Tried> {
  return {
    name: 'redoubt_try_code',
    text: 'select answer, id, user_id, tenant, handle_hash, code_hash, context_hash, binding, expires_at from guard.try_code($1, $2, $3, $4)',
    values: [
      purpose, versions.map((key) => handleHash(key, purpose, handle)),
      digits === undefined ? null : versions.map((key) => codeHash(key, purpose, handleHash(key, purpose, handle), digits)),
      context === undefined ? null : versions.map((key) => contextHash(key, purpose, context)),
    ],
  }
}
