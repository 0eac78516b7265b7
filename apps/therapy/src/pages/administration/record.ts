import { readAudit, type AuditRow } from 'redoubt/audit/query'
import { html, type Html } from 'redoubt/http/html'
import { page } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import type { App } from '../../app.ts'
import { rowId } from '../../fields.ts'
import { cursorOf, limitOf, pageFrom, pageQuery } from '../../paging.ts'
import type { Asking } from '../doors.ts'
import { frame } from '../frame.ts'
import { timeOf } from '../sessions.ts'

const outcomes = ['done', 'refused', 'failed'] as const
/** An empty field of a form is no wish. */
const recordQuery = z.strictObject({ cursor: pageQuery.cursor, action: z.string().regex(/^(?:[a-z][a-z0-9_.-]{0,63})?$/).optional(), outcome: z.enum(['', ...outcomes]).optional() })
type Wanted = z.output<typeof recordQuery>

/** The record of who did what, newest first. Reading it is an entry too. */
export function recordPages(app: App): readonly Route[] {
  return [
    page({
      method: 'GET', path: '/record', summary: 'The record of who did what', access: ['admin', 'auditor'], query: recordQuery,
      handle: async ({ caller, csrf, query }) => {
        const before = cursorOf(query, z.tuple([rowId]))?.[0]
        const wanted = { action: query.action === '' ? undefined : query.action, outcome: query.outcome === '' ? undefined : query.outcome, before, limit: limitOf({}) }
        const { items, next } = pageFrom(await transaction.one(app.db, caller, 'audit.queried', readAudit(wanted)), {}, (row) => [row.id], (row) => row)
        return recordPage(app, { caller, csrf }, query, items, next)
      },
    }),
  ]
}

function recordPage({ identity }: App, by: Asking, { action = '', outcome = '' }: Wanted, items: readonly AuditRow[], next: string | null): Html {
  return frame(identity.realm, {
    title: 'Record', heading: 'The record', by, here: '/record',
    content: html`<p class="lead">Who did what, and what was refused to whom. No contents, and no names.</p>
<form method="get" action="/record" class="filter"><div><label for="action">Action</label><input id="action" name="action" autocomplete="off" autocapitalize="none" spellcheck="false" maxlength="64" pattern="[a-z][a-z0-9_.\\-]*" placeholder="record.read" value="${action}"></div>
<div><label for="outcome">Outcome</label><select id="outcome" name="outcome"><option value="">All</option>${outcomes.map((each) => html`<option value="${each}"${each === outcome && html` selected`}>${each}</option>`)}</select></div><button class="second">Show</button></form>
${items.length === 0 && html`<p>There is none.</p>`}<ul class="list">${items.map(entry)}</ul>
${next !== null && html`<p class="end"><a class="button" href="${`/record?action=${action}&outcome=${outcome}&cursor=${next}`}">Earlier ones</a></p>`}`,
  })
}

function entry(row: AuditRow): Html {
  const { occurred_at: at, action, outcome, actor_role: role, actor_id: actor, resource_type: type, resource_id: id, request_id: request } = row
  return html`<li class="card entry"><h2><code>${action}</code> <span class="${outcome === 'done' ? 'badge' : 'badge off'}">${outcome}</span></h2>
<dl><div><dt>When</dt><dd>${timeOf(at)}</dd></div><div><dt>Who</dt><dd>${role}${actor !== null && html` <code>${actor}</code>`}</dd></div>${type !== null && id !== null && html`<div><dt>What</dt><dd>${type} <code>${id}</code></dd></div>`}<div><dt>Request</dt><dd><code>${request}</code></dd></div></dl></li>`
}
