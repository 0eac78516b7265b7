import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, show } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { listAccounts, type ListedAccount } from 'redoubt/tokens/administration'
import { z } from 'zod'
import { findAccount } from '../../admin.ts'
import type { App } from '../../app.ts'
import { email as emailField, rowId } from '../../fields.ts'
import { cursorOf, limitOf, pageFrom, pageQuery } from '../../paging.ts'
import type { Asking } from '../doors.ts'
import { field } from '../field.ts'
import { frame, token } from '../frame.ts'
import { proofBy, type ProofBy } from '../proof.ts'
import { timeOf } from '../sessions.ts'
import { deedForms, deedPages, notes } from './operations.ts'

const roles = ['patient', 'therapist', 'admin', 'auditor'] as const
const states = ['active', 'suspended', 'pending'] as const
/** An empty choice of a form is no choice. */
const listQuery = z.strictObject({ cursor: pageQuery.cursor, role: z.enum(['', ...roles]).optional(), status: z.enum(['', ...states]).optional(), note: z.enum(Object.keys(notes) as [keyof typeof notes]).optional() })
type Chosen = Omit<z.output<typeof listQuery>, 'note'>
type Shown = { readonly wrong?: string; readonly told?: string; readonly email?: string }

/** Accounts as an administrator sees them, without names or addresses, and what can be done to each. */
export function accountsPages(app: App): readonly Route[] {
  const listed = async (by: Asking, chosen: Chosen, shown: Shown): Promise<Html> => {
    const before = cursorOf(chosen, z.tuple([rowId]))?.[0]
    const rows = await listAccounts({ gate: app.db, emit: app.emit }, by.caller, { role: chosen.role === '' ? undefined : chosen.role, status: chosen.status === '' ? undefined : chosen.status, before, limit: limitOf({}) })
    const { items, next } = pageFrom(rows, {}, (row) => [row.id], (row) => row)
    return accountsPage(app, by, { ...shown, items, chosen, next, guard: await proofBy(app, by.caller) })
  }
  return [
    page({
      method: 'GET', path: '/accounts', summary: 'Accounts', access: ['admin'], query: listQuery,
      handle: ({ caller, csrf, query: { note, ...chosen } }) => listed({ caller, csrf }, chosen, note === undefined ? {} : { told: notes[note] }),
    }),
    page({
      // The address stands in the body, since what stands in a path ends in logs.
      method: 'POST', path: '/accounts/find', summary: 'Finds the account of an address', access: ['admin'], form: z.strictObject({ email: z.string() }),
      handle: async ({ caller, csrf, form }) => {
        const by = { caller, csrf }
        const { data: address } = emailField.safeParse(form.email)
        if (address === undefined) return show(await listed(by, {}, { email: form.email, wrong: 'Enter the address as its owner tells it, such as name@example.org.' }), { status: 422 })
        try {
          return foundPage(app, by, await findAccount(app, caller, address), await proofBy(app, caller))
        } catch (error) {
          if (!(error instanceof Refusal) || error.code !== 'not_found') throw error
          return show(await listed(by, {}, { email: form.email, wrong: 'No account has this address.' }), { status: 404 })
        }
      },
    }),
    ...deedPages(app, (by, wrong) => listed(by, {}, { wrong })),
  ]
}

const words: Readonly<Record<string, string>> = {
  patient: 'Patient', therapist: 'Therapist', admin: 'Administrator', auditor: 'Auditor', active: 'Active', suspended: 'Suspended', pending: 'Address not confirmed',
}
const wordOf = (key: string): string => words[key] ?? key

function accountCard(by: Asking, row: ListedAccount, guard: ProofBy): Html {
  const { id, role, status, created_at: created, sessions } = row
  return html`<li class="card"><h2>${wordOf(role)} <span class="${status === 'active' ? 'badge' : 'badge off'}">${wordOf(status)}</span>${id === by.caller.actor && html` <span class="badge">You</span>`}</h2>
<dl><div><dt>Account</dt><dd><code>${id}</code></dd></div><div><dt>Since</dt><dd>${timeOf(created)}</dd></div><div><dt>Devices signed in</dt><dd>${sessions}</dd></div></dl>
${deedForms(by, row, guard)}</li>`
}

function findForm(by: Asking, { email, wrong }: Shown): Html {
  return html`<section class="card"><h2>Find by address</h2><form method="post" action="/accounts/find">${token(by.csrf)}${field({ name: 'email', label: 'E-mail address, as its owner tells it', type: 'email', autocomplete: 'off', value: email, marked: wrong !== undefined && email !== undefined })}<button>Find</button></form></section>`
}

function accountsPage({ identity }: App, by: Asking, { items, chosen, next, guard, ...shown }: Shown & { readonly guard: ProofBy; readonly items: readonly ListedAccount[]; readonly chosen: Chosen; readonly next: string | null }): Html {
  const choice = (name: 'role' | 'status', label: string, values: readonly string[]): Html => html`<div><label for="${name}">${label}</label><select id="${name}" name="${name}"><option value="">All</option>
${values.map((value) => html`<option value="${value}"${chosen[name] === value && html` selected`}>${wordOf(value)}</option>`)}</select></div>`
  const more = `/accounts?role=${chosen.role ?? ''}&status=${chosen.status ?? ''}&cursor=${next ?? ''}`
  return frame(identity.realm, {
    title: 'Accounts', by, here: '/accounts', passkeys: guard === 'passkey', wrong: shown.wrong, told: shown.told,
    content: html`<p class="lead">What an account is, not whose: no names, no addresses, no records of care. Every look is recorded.</p>
${findForm(by, shown)}
<form method="get" action="/accounts" class="filter">${choice('role', 'Role', roles)}${choice('status', 'State', states)}<button class="second">Show</button></form>
${items.length === 0 && html`<p>There is none.</p>`}<ul class="list">${items.map((row) => accountCard(by, row, guard))}</ul>
${next !== null && html`<p class="end"><a class="button" href="${more}">Earlier ones</a></p>`}`,
  })
}

function foundPage({ identity }: App, by: Asking, row: ListedAccount, guard: ProofBy): Html {
  return frame(identity.realm, {
    title: 'Account found', by, here: '/accounts', passkeys: guard === 'passkey',
    content: html`<ul class="list">${accountCard(by, row, guard)}</ul><p class="end"><a href="/accounts">All accounts</a></p>`,
  })
}
