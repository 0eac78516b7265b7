import { readAudit } from 'redoubt/audit/query'
import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import type { Sealed } from 'redoubt/tables'
import { changeRole, endAccountSessions, listAccounts, restoreAccount, suspendAccount, type ListedAccount } from 'redoubt/tokens/administration'
import { canonicalEmail } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import type { App } from './app.ts'
import { email, idParams, instant, rowId, utc, utcOf } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

const account = z.object({ id: rowId, role: z.string(), realm: z.string(), status: z.enum(['active', 'suspended', 'pending']), created_at: utc, sessions: z.int() })
const entry = z.object({
  id: rowId, at: utc, actor: z.object({ type: z.string(), id: rowId.nullable(), role: z.string() }), action: z.string(), purpose: z.string().nullable(), outcome: z.string(),
  resource: z.object({ type: z.string(), id: z.string() }).nullable(), request_id: z.string(),
})
const waiting = z.object({ id: rowId, display_name: z.string(), specialisation: z.string(), licence_number: z.string(), registered_at: utc })
const word = z.string().regex(/^[a-z][a-z0-9_.-]{0,63}$/)
const accountQuery = z.strictObject({ ...pageQuery, role: word.optional(), status: z.enum(['active', 'suspended', 'pending']).optional() })
const auditQuery = z.strictObject({
  ...pageQuery, action: word.optional(), actor: rowId.optional(), resource_type: word.optional(), resource_id: z.string().regex(/^[A-Za-z0-9._:/-]{1,128}$/).optional(),
  outcome: z.enum(['done', 'refused', 'failed']).optional(), since: instant.optional(), until: instant.optional(),
})
const tags = ['administration'] as const

/**
 * What administrators and auditors do, at their own door: accounts as numbers and states, never as names; the record.
 * Care data is not here, nor can their roles read any.
 */
export function adminRoutes(app: App): readonly Route[] {
  const service = { gate: app.db, emit: app.emit }
  const view = (row: ListedAccount): z.output<typeof account> => ({ ...row, status: row.status as z.output<typeof account>['status'], created_at: utcOf(row.created_at) })
  return [
    route({
      method: 'GET', path: '/api/admin/users', tags, summary: 'Accounts, newest first: role, state and number of sessions; no names and no addresses',
      access: ['admin'], query: accountQuery, answer: pageOf(account),
      handle: async ({ caller, query }) => {
        const before = cursorOf(query, z.tuple([rowId]))?.[0]
        const rows = await listAccounts(service, caller, { role: query.role, status: query.status, before, limit: limitOf(query) })
        return pageFrom(rows, query, (row) => [row.id], view)
      },
    }),
    route({
      method: 'POST', path: '/api/admin/users/find', tags, summary: 'The account of an address that its owner told; in the body, since addresses of requests end in logs',
      access: ['admin'], body: z.strictObject({ email }), answer: account, refuses: ['not_found'],
      handle: async ({ caller, body }) => view(await findAccount(app, caller, body.email)),
    }),
    route({
      method: 'POST', path: '/api/admin/users/{id}/suspend', tags, summary: 'Suspend an account: no sign-in and no refresh, its sessions end at once',
      access: ['admin'], params: idParams, answer: null, refuses: ['not_found', 'conflict'],
      handle: ({ caller, params }) => suspendAccount(service, caller, params.id),
    }),
    route({
      method: 'POST', path: '/api/admin/users/{id}/restore', tags, summary: 'Let a suspended account sign in again',
      access: ['admin'], params: idParams, answer: null, refuses: ['not_found', 'conflict'],
      handle: ({ caller, params }) => restoreAccount(service, caller, params.id),
    }),
    route({
      method: 'POST', path: '/api/admin/users/{id}/end-sessions', tags, summary: 'End all sessions of an account, at once and everywhere',
      access: ['admin'], params: idParams, answer: z.object({ ended: z.int() }),
      handle: async ({ caller, params }) => ({ ended: await endAccountSessions(service, caller, params.id) }),
    }),
    route({
      method: 'POST', path: '/api/admin/users/{id}/role', tags, summary: 'Make an administrator an auditor, or the other way round; their sessions end',
      access: ['admin'], params: idParams, body: z.strictObject({ role: z.enum(['admin', 'auditor']) }), answer: null, refuses: ['not_found', 'conflict'],
      handle: ({ caller, params, body }) => changeRole(service, caller, params.id, body.role),
    }),
    route({
      method: 'GET', path: '/api/admin/therapists', tags, summary: 'Therapists who wait for the verification of their licence, longest first, with its number to compare with the register',
      access: ['admin'], query: z.strictObject(pageQuery), answer: pageOf(waiting),
      handle: ({ caller, query }) => transaction(app.db, caller, 'therapist.examined', (tx) => listWaiting(app, tx, query)),
    }),
    route({
      method: 'POST', path: '/api/admin/therapists/{id}/verify', tags, summary: 'Mark a therapist’s licence as verified, so that patients find and book them',
      access: ['admin'], params: idParams, answer: null, refuses: ['not_found'],
      handle: ({ caller, params }) => verifyLicence(app, caller, params.id),
    }),
    route({
      method: 'GET', path: '/api/admin/audit', tags, summary: 'The record of who did what, newest first; `outcome=refused` gives what was tried and not allowed; from `since` on, before `until`. Reading it is an entry too',
      access: ['admin', 'auditor'], query: auditQuery, answer: pageOf(entry),
      handle: async ({ caller, query }) => {
        const before = cursorOf(query, z.tuple([rowId]))?.[0]
        const { action, actor, outcome, since, until, resource_type: resourceType, resource_id: resourceId } = query
        const rows = await transaction.one(app.db, caller, 'audit.queried', readAudit({ action, actor, resourceType, resourceId, outcome, since, until, before, limit: limitOf(query) }))
        return pageFrom(rows, query, (row) => [row.id], (row) => ({
          id: row.id, at: utcOf(row.occurred_at), actor: { type: row.actor_type, id: row.actor_id, role: row.actor_role }, action: row.action, purpose: row.purpose, outcome: row.outcome,
          resource: row.resource_type === null || row.resource_id === null ? null : { type: row.resource_type, id: row.resource_id }, request_id: row.request_id,
        }))
      },
    }),
  ]
}

/** The account of an address, as an administrator may see it. @throws Refusal not_found; forbidden for all but administrators */
export async function findAccount(app: App, caller: Person, address: string): Promise<ListedAccount> {
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(address))
  const [row] = await listAccounts({ gate: app.db, emit: app.emit }, caller, { indexes, limit: 1 })
  if (row === undefined) throw new Refusal('not_found')
  return row
}

type Waiting = { readonly user_id: string; readonly display_name: string; readonly specialisation: string; readonly licence_number_enc: Sealed; readonly created_at: Date }

async function listWaiting(app: App, tx: Tx, query: PageQuery): Promise<{ readonly items: readonly z.output<typeof waiting>[]; readonly next: string | null }> {
  const after = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.query<Waiting>({ name: 'therapy_waiting', text: 'select * from therapy.waiting_therapists($1, $2)', values: [after ?? null, limitOf(query)] })
  const opened = await app.columns.open(tx, 'therapy.therapist_profiles', rows)
  return pageFrom(opened, query, (row) => [row.user_id], ({ user_id: id, created_at, ...row }) => ({ ...row, id, registered_at: utcOf(created_at) }))
}

/** Marks a therapist's licence as verified. @throws Refusal not_found, also where it is so already; forbidden */
export function verifyLicence(app: App, caller: Person, id: string): Promise<void> {
  return transaction(app.db, caller, { action: 'therapist.verified', resource: { type: 'therapist', id } }, async (tx) => {
    const [row] = await tx.query<{ readonly done: boolean }>({ text: 'select therapy.verify_licence($1) as done', values: [id] })
    if (row?.done !== true) throw new Refusal('not_found')
  })
}
