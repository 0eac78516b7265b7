import { openColumns, type Columns } from 'redoubt/columns'
import { systemCaller } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import type { Emit } from 'redoubt/events'
import type { Keyring } from 'redoubt/keyring'
import type { Mail, Mailer } from 'redoubt/mail'
import { startOutbox, type Due, type OutboxSettings } from 'redoubt/outbox'
import type { Pool } from 'redoubt/pg'
import { codeActions, openCodes, type Codes } from 'redoubt/tokens/codes'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction, type Gate } from 'redoubt/transaction'
import type { Signer } from 'redoubt/transaction/signer'
import { mailTexts, type Text } from './mail-texts.ts'
import { tables, type Therapy } from './tables.ts'

/** The worker reads a person's address to write to them: named by the row that caused it, which has an entry of its own. */
const letterActions = { 'mail.written': { audited: false } } as const

/** What the worker writes letters with. */
export type Writer = {
  readonly pool: Pick<Pool, 'query'>
  /** Of the worker's role. */
  readonly gate: Gate<typeof letterActions>
  readonly columns: Columns<Therapy>
  readonly codes: Pick<Codes, 'digitsOf' | 'issueFor'>
}

type Recipient = { readonly id: string; readonly tenant: string; readonly email_enc: Buffer; readonly email_bidx: Buffer; readonly status: string; readonly taken: boolean }
type Envelope = { readonly to: string; readonly content: Text }

const unnoted = { opened: (): void => undefined }
const digits = 8

/**
 * The message for a row of the outbox, with the account as it is now; undefined when there is nobody to write to.
 * @throws Refusal key_destroyed for somebody who was erased, sealed_value_refused for a row that was tampered with
 */
async function writeLetter(writer: Writer, due: Due): Promise<Mail | undefined> {
  const [found] = await writer.pool.query<Recipient>({ name: 'therapy_mail_recipient', text: 'select id, tenant, email_enc, email_bidx, status, taken from guard.mail_recipient($1)', values: [due.id] })
  if (found === undefined || (found.status !== 'active' && found.status !== 'pending')) return undefined
  const [account] = await writer.columns.open(unnoted, 'redoubt.users', [found])
  if (account === undefined) return undefined
  const envelope = await envelopeOf(writer, due, account)
  return envelope === undefined ? undefined : { id: due.id, to: envelope.to, ...envelope.content }
}

async function envelopeOf(writer: Writer, due: Due, account: { readonly id: string; readonly email: string; readonly email_bidx: Buffer; readonly status: string; readonly taken: boolean }): Promise<Envelope | undefined> {
  const own = (content: Text): Envelope => ({ to: account.email, content })
  switch (due.topic) {
    case 'email_verify':
      if (account.status !== 'pending') return undefined
      return own(account.taken ? mailTexts.taken() : mailTexts.verify(await codeOf(writer, due)))
    case 'reset':
      return (await promised(writer, due, account)) ? own(mailTexts.reset(await codeOf(writer, due))) : undefined
    case 'password_changed':
      return own(mailTexts.passwordChanged(due.created_at))
    case 'email_change': {
      const { to = '' } = await payloadOf(writer, due)
      return { to, content: account.taken ? mailTexts.taken() : mailTexts.emailChange(await codeOf(writer, due)) }
    }
    case 'email_changed': {
      const { to = '', undo = '' } = await payloadOf(writer, due)
      return { to, content: mailTexts.emailChanged(due.created_at, undo) }
    }
    case 'email_restored':
      return own(mailTexts.emailRestored(due.created_at))
    case 'factor_changed':
      return own(mailTexts.factorChanged(due.created_at))
    case 'recovery_code_used':
      return own(mailTexts.recoveryCodeUsed(due.created_at))
    case 'factor_reset_requested':
      return own(mailTexts.factorReset((await payloadOf(writer, due))['at'] ?? ''))
    case 'factors_reset':
      return own(mailTexts.factorsReset(due.created_at))
    case 'administrator_recovered':
      return own(mailTexts.administratorRecovered(due.created_at))
    case 'new_device':
      return own(mailTexts.newDevice(due.created_at, (await payloadOf(writer, due))['device'] ?? 'Unknown device'))
    default:
      throw new TypeError(`writeLetter: no text for ${due.topic}`)
  }
}

/** The digits are a function of the row: the same at every try, kept nowhere. */
function codeOf({ codes }: Writer, { id, handle_hash: handleHash }: Due): Promise<string> {
  if (handleHash === null) throw new Refusal('sealed_value_refused')
  return codes.digitsOf({ id, handleHash }, digits)
}

/**
 * Issues the code of a forgotten password, once: only here is it known whether there is an account. An index that does
 * not belong to the sealed address was moved there by somebody, and gets no code.
 */
async function promised({ codes, columns, gate }: Writer, due: Due, account: { readonly id: string; readonly email: string; readonly email_bidx: Buffer }): Promise<boolean> {
  const { id, handle_hash: handleHash, tenant, request_id: requestId } = due
  const indexes = await columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(account.email))
  if (handleHash === null || !indexes.some((index) => index.equals(account.email_bidx))) throw new Refusal('sealed_value_refused')
  const caller = systemCaller('reset', tenant, { requestId, address: null })
  return transaction(gate, caller, 'mail.written', (tx) => codes.issueFor(tx, { id, handleHash }, { user: account.id, purpose: 'reset', digits }))
}

async function payloadOf({ columns }: Writer, due: Due): Promise<Readonly<Record<string, string | undefined>>> {
  if (due.user_id === null) throw new Refusal('sealed_value_refused')
  const [row] = await columns.open(unnoted, 'redoubt.outbox', [{ id: due.id, user_id: due.user_id, tenant: due.tenant, payload_enc: due.payload_enc }])
  return row?.payload === null || row === undefined ? {} : (JSON.parse(row.payload) as Readonly<Record<string, string>>)
}

/**
 * The worker's half of mail: what waits in the outbox is written and sent until it is stopped.
 * @param with pool, signer and keyring of the worker; pace: milliseconds, for tests
 */
export function startMail(given: {
  readonly pool: Pool
  readonly signer: Signer
  readonly keyring: Keyring
  readonly mailer: Pick<Mailer, 'send'>
  readonly emit: Emit
  readonly pace?: Pick<OutboxSettings, 'intervalMs' | 'leaseMs' | 'pauseMs' | 'tries'>
}): { stop(): Promise<void> } {
  const { pool, signer, keyring, mailer, emit, pace } = given
  const gate: Writer['gate'] = { pool, signer, actions: letterActions, retention: tables.retention, personal: undefined, emit }
  const columns = openColumns(tables, keyring)
  // The worker only issues and tells digits; no code is ever shown to it.
  const codes = openCodes({ keyring, gate: { ...gate, actions: { ...letterActions, ...codeActions } }, emit })
  return startOutbox({ pool, mailer, emit, ...pace, write: (due) => writeLetter({ pool, gate, columns, codes }, due) })
}
