import { newId } from 'redoubt/bytes'
import { Refusal } from 'redoubt/errors'
import { route, type Route } from 'redoubt/http/route'
import type { Tx } from 'redoubt/pg'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { noteSubjects, visible, make, sql, type App } from './app.ts'
import { idParams, prose, rowId, utc, utcOf } from './fields.ts'
import { cursorOf, limitOf, pageFrom, pageOf, pageQuery, type PageQuery } from './paging.ts'

/** A conversation is a care relationship: it has its id, and nobody else can be in it. */
const conversationAnswer = z.object({ id: rowId, therapist_id: rowId, patient_id: rowId, state: z.string(), unread: z.int() })
const messageBody = z.strictObject({ text: prose(4000) })
const messageAnswer = z.object({ id: rowId, conversation_id: rowId, sender_id: rowId, recipient_id: rowId, text: z.string(), created_at: utc, read_at: utc.nullable() })
type Conversation = z.output<typeof conversationAnswer>
type Message = z.output<typeof messageAnswer>

export function conversationRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/conversations', tags: ['messages'], summary: 'The caller’s conversations, with the number of unread messages',
      access: ['patient', 'therapist'], query: z.strictObject(pageQuery), answer: pageOf(conversationAnswer),
      handle: ({ caller, query }) => transaction(app.db, caller, 'conversation.viewed', (tx) => listConversations(tx, caller.actor, query)),
    }),
    route({
      method: 'GET', path: '/api/conversations/{id}/messages', tags: ['messages'], summary: 'Messages, newest first',
      access: ['patient', 'therapist'], params: idParams, query: z.strictObject(pageQuery), answer: pageOf(messageAnswer),
      handle: ({ caller, params, query }) =>
        transaction(app.db, caller, { action: 'message.read', resource: { type: 'conversation', id: params.id } }, (tx) => listMessages(app, tx, caller.actor, params.id, query)),
    }),
    route({
      method: 'POST', path: '/api/conversations/{id}/messages', tags: ['messages'], summary: 'Write to the other side',
      access: ['patient', 'therapist'], params: idParams, body: messageBody, answer: messageAnswer, status: 201, idempotent: true, refuses: ['conflict'],
      handle: ({ caller, params, body, repeatable }) =>
        make(app, { caller, repeatable, on: { type: 'conversation', id: params.id } }, 'message.sent', (tx) => sendMessage(app, tx, caller.actor, params.id, body.text, app.now()), (tx, id) => readMessage(app, tx, id)),
    }),
    route({
      method: 'POST', path: '/api/messages/{id}/read', tags: ['messages'], summary: 'Mark a received message as read; the first time counts',
      access: ['patient', 'therapist'], params: idParams, answer: null,
      handle: ({ caller, params }) =>
        transaction(app.db, caller, { action: 'message.marked_read', resource: { type: 'message', id: params.id } }, (tx) => markRead(tx, caller.actor, params.id, app.now())),
    }),
  ]
}

/** A patient keeps a conversation that has ended; for the therapist it is gone with the care. */
function conversationsOf(actor: string) {
  return sql.selectFrom('therapy.care_relationships').where((is) => is.or([is('state', '=', 'active'), is.and([is('state', '=', 'ended'), is('patient_id', '=', actor)])]))
}

async function listConversations(tx: Tx, actor: string, query: PageQuery): Promise<{ readonly items: readonly Conversation[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  const rows = await tx.run(
    conversationsOf(actor)
      .select(['id', 'therapist_id', 'patient_id', 'state'])
      .select((is) => is.selectFrom('therapy.messages as message').select((m) => m.fn.countAll<bigint>().as('unread'))
        .whereRef('message.care_relationship_id', '=', 'therapy.care_relationships.id').where('message.recipient_id', '=', actor).where('message.read_at', 'is', null).as('unread'))
      .$if(before !== undefined, (q) => q.where('id', '<', before ?? ''))
      .orderBy('id', 'desc').limit(limitOf(query)),
  )
  const page = pageFrom(rows, query, (row) => [row.id], (row) => ({ ...row, unread: Number(row.unread ?? 0) }))
  noteSubjects(tx, 'therapy.care_relationships', page.items)
  return page
}

const shown = ['id', 'care_relationship_id', 'patient_id', 'sender_id', 'recipient_id', 'body_enc', 'created_at', 'read_at'] as const

type Row = { readonly id: string; readonly care_relationship_id: string; readonly sender_id: string; readonly recipient_id: string; readonly body: string; readonly created_at: Date; readonly read_at: Date | null }

function view(row: Row): Message {
  return {
    id: row.id, conversation_id: row.care_relationship_id, sender_id: row.sender_id, recipient_id: row.recipient_id,
    text: row.body, created_at: utcOf(row.created_at), read_at: utcOf(row.read_at),
  }
}

/** @throws Refusal not_found */
async function listMessages(app: App, tx: Tx, actor: string, conversation: string, query: PageQuery): Promise<{ readonly items: readonly Message[]; readonly next: string | null }> {
  const before = cursorOf(query, z.tuple([rowId]))?.[0]
  const [relationships, rows] = await Promise.all([
    tx.run(conversationsOf(actor).select(['id', 'patient_id']).where('id', '=', conversation)),
    tx.run(
      sql.selectFrom('therapy.messages').select(shown).where('care_relationship_id', '=', conversation)
        .$if(before !== undefined, (q) => q.where('id', '<', before ?? ''))
        .orderBy('id', 'desc').limit(limitOf(query)),
    ),
  ])
  visible(noteSubjects(tx, 'therapy.care_relationships', relationships))
  const opened = await app.columns.open(tx, 'therapy.messages', rows)
  return pageFrom(opened, query, (row) => [row.id], view)
}

/** @throws Refusal not_found */
async function readMessage(app: App, tx: Tx, id: string): Promise<Message> {
  return view(visible(await app.columns.open(tx, 'therapy.messages', await tx.run(sql.selectFrom('therapy.messages').select(shown).where('id', '=', id)))))
}

/** @throws Refusal not_found; conflict when the relationship has ended */
export async function sendMessage(app: App, tx: Tx, sender: string, conversation: string, text: string, now: Date): Promise<Message> {
  const pair = visible(await tx.run(conversationsOf(sender).select(['patient_id', 'therapist_id', 'state']).where('id', '=', conversation)))
  if (pair.state !== 'active') throw new Refusal('conflict', { detail: 'this relationship has ended' })
  const { patient_id, therapist_id } = pair
  const id = newId()
  const recipient = sender === patient_id ? therapist_id : patient_id
  tx.about('message', id)
  const row = await app.columns.seal(tx, 'therapy.messages', {
    id, care_relationship_id: conversation, patient_id, therapist_id, sender_id: sender, recipient_id: recipient, body: text, created_at: now,
  })
  await tx.run(sql.insertInto('therapy.messages').values(row))
  return { id, conversation_id: conversation, sender_id: sender, recipient_id: recipient, text, created_at: utcOf(now), read_at: null }
}

/** @throws Refusal not_found for a message that the caller did not receive */
export async function markRead(tx: Tx, recipient: string, id: string, now: Date): Promise<void> {
  visible(await tx.run(sql.selectFrom('therapy.messages').select('id').where('id', '=', id).where('recipient_id', '=', recipient)))
  await tx.run(sql.updateTable('therapy.messages').set({ read_at: now }).where('id', '=', id).where('read_at', 'is', null))
}
