import type { Person } from 'redoubt/context'
import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { changeRole, endAccountSessions, restoreAccount, suspendAccount, type ListedAccount } from 'redoubt/tokens/administration'
import { cancelReset, requestReset, resetPurpose } from 'redoubt/tokens/factors/reset'
import { z } from 'zod'
import { verifyLicence } from '../../admin.ts'
import type { App } from '../../app.ts'
import { idParams } from '../../fields.ts'
import type { Asking } from '../doors.ts'
import { token } from '../frame.ts'
import { orPasskey, proofField, proofInput, proven, saidOf, type ProofBy } from '../proof.ts'

type Operation = {
  readonly name: string
  /** What it does, in front of its button. */
  readonly why: string
  readonly note: string
  /** Whether it makes sense for such an account. */
  readonly fits: (row: ListedAccount) => boolean
  /** True: asks for a fresh proof of who does it. */
  readonly proof?: true
  readonly run: (app: App, caller: Person, id: string, proof: string) => Promise<unknown>
}

const service = (app: App) => ({ gate: app.db, emit: app.emit })
const confirmed = ({ status }: ListedAccount): boolean => status !== 'pending'

/** What can be done to an account, by the last part of its path. */
const operations = {
  suspend: {
    name: 'Suspend', why: 'Nobody signs in with this account any more, and its devices are signed out at once.', note: 'The account is suspended, and its devices are signed out.',
    fits: ({ status }) => status === 'active', run: (app, caller, id) => suspendAccount(service(app), caller, id),
  },
  restore: {
    name: 'Let sign in again', why: 'The account works as before. Its devices have to sign in anew.', note: 'The account can sign in again.',
    fits: ({ status }) => status === 'suspended', run: (app, caller, id) => restoreAccount(service(app), caller, id),
  },
  'end-sessions': {
    name: 'Sign out its devices', why: 'Every device of this account has to sign in anew.', note: 'The devices of the account are signed out.',
    fits: ({ sessions }) => sessions > 0, run: (app, caller, id) => endAccountSessions(service(app), caller, id),
  },
  verify: {
    name: 'Verify the licence', why: 'Patients find and book this therapist from then on. Look at the register of licences first.', note: 'The licence is verified.',
    fits: ({ role }) => role === 'therapist', run: (app, caller, id) => verifyLicence(app, caller, id),
  },
  'factor-reset': {
    name: 'Remove a lost second step', why: 'Only after you have made sure who asks. The person gets a mail and can end it; after the delay the password alone opens the account once, to set up a new second step. Of an administrator or auditor who forgot the password it is the way too: from then on they can have a code for a new one mailed.', note: 'The removal is asked for, and the person is told by mail. It takes effect after the delay.',
    fits: confirmed, proof: true, run: async (app, caller, id, proof) => requestReset(app.factors, caller, { user: id, stepUp: await proven(app, caller, { action: resetPurpose, resource: id }, true, proof) }),
  },
  'factor-reset-cancel': {
    name: 'End such a removal', why: 'The second step stays as it is.', note: 'The removal is ended; the second step stays.',
    fits: confirmed, run: (app, caller, id) => cancelReset(app.factors, caller, id),
  },
  'make-auditor': {
    name: 'Make an auditor', why: 'Auditors read the record and change nothing. Devices are signed out.', note: 'The account is an auditor’s now.',
    fits: ({ role }) => role === 'admin', run: (app, caller, id) => changeRole(service(app), caller, id, 'auditor'),
  },
  'make-admin': {
    name: 'Make an administrator', why: 'Administrators do everything that stands here. Devices are signed out.', note: 'The account is an administrator’s now.',
    fits: ({ role }) => role === 'auditor', run: (app, caller, id) => changeRole(service(app), caller, id, 'admin'),
  },
} as const satisfies Readonly<Record<string, Operation>>

type Name = keyof typeof operations
const all = Object.entries(operations) as readonly [Name, Operation][]

/** What is said once it is done. */
export const notes = Object.fromEntries(all.map(([path, { note }]) => [path, note])) as Readonly<Record<Name, string>>

/** The form of each thing that can be done to this account; none for one's own. @param guard what its caller proves with */
export function deedForms({ caller, csrf }: Asking, row: ListedAccount, guard: ProofBy): Html | undefined {
  const fitting = row.id === caller.actor ? [] : all.filter(([, { fits }]) => fits(row))
  if (fitting.length === 0) return undefined
  return html`<div class="operations">${fitting.map(([path, { name, why, proof }]) => html`<details><summary>${name}<span class="unseen"> ${row.id}</span></summary><form method="post" action="${`/accounts/${row.id}/${path}`}">${token(csrf)}<p>${why}</p>${proof === true && proofInput(`proof-${row.id}`, true)}<button class="danger">${name}</button>${proof === true && orPasskey(guard, { action: resetPurpose, resource: row.id })}</form></details>`)}</div>`
}

/** @param anew the list with what went wrong */
export function deedPages(app: App, anew: (by: Asking, wrong: string) => Promise<Html>): readonly Route[] {
  return all.map(([path, operation]) => page({
    method: 'POST', path: `/accounts/{id}/${path}`, summary: operation.name, access: ['admin'], params: idParams, form: z.strictObject({ proof: proofField.optional() }),
    handle: async ({ caller, csrf, params, form }) => {
      try {
        await operation.run(app, caller, params.id, form.proof ?? '')
        return redirect(`/accounts?note=${path}`)
      } catch (error) {
        const wrong = wrongOf(error)
        if (wrong === undefined) throw error
        return show(await anew({ caller, csrf }, wrong), { status: 422 })
      }
    },
  }))
}

function wrongOf(error: unknown): string | undefined {
  if (!(error instanceof Refusal)) return undefined
  switch (error.code) {
    case 'not_found':
      return 'There is nothing of that kind to change at this account. It may have been done meanwhile.'
    case 'conflict':
    case 'already_exists':
      return 'That is so already.'
    case 'forbidden':
      return 'That cannot be done to this account.'
    default:
      return saidOf(error)
  }
}
