import { systemCaller } from '../context.ts'
import type { Visitor } from '../context.ts'
import type { Statement } from '../pg.ts'
import { transaction } from '../transaction.ts'
import type { Identity } from './sessions.ts'

/** What an exchange of a refresh token asks of the row: hashes, and what tells a retry of its sender from a theft. */
export type Rotation = {
  readonly family: Buffer
  readonly presented: Buffer
  readonly next: Buffer
  readonly salt: Buffer
  readonly attempt: Buffer | null
  readonly agent: Buffer
  readonly prefix: string | null
}

/** How it went; guard.refresh_session names the outcomes. */
export type Rotated = {
  readonly outcome: 'rotated' | 'replayed' | 'reused' | 'ended' | 'unknown'
  readonly session: string
  readonly actor: string
  readonly role: string
  readonly tenant: string
  readonly salt: Buffer | null
  readonly binding: Buffer | null
}

type Place = Pick<Rotated, 'session' | 'actor' | 'role' | 'tenant' | 'binding'> & { readonly place: number }
type Asked = { readonly visitor: Visitor; readonly rotation: Rotation; readonly answer: (rotated: Promise<Rotated | undefined>) => void }

/** Exchanges in one statement; the function takes 64. Two statements under way use both the database's time and ours. */
const most = 16

const oneText = 'select outcome, session, actor, role, tenant, salt, binding from guard.refresh_session($1, $2, $3, $4, $5, $6, $7, $8, $9)'
const manyText = 'select place, session, actor, role, tenant, binding from guard.refresh_sessions($1, $2, $3, $4, $5, $6, $7, $8, $9)'

async function alone({ gate, realm, tenant, lifetimes }: Identity, { visitor, rotation }: Asked): Promise<Rotated | undefined> {
  const { family, presented, next, salt, attempt, agent, prefix } = rotation
  const statement: Statement<Rotated> = { name: 'redoubt.refresh_session', text: oneText, values: [realm, family, presented, next, salt, attempt, agent, prefix, lifetimes.idle] }
  const [row] = await transaction.one(gate, systemCaller('refresh', tenant, visitor), 'auth.refreshed', statement)
  return row
}

async function together({ gate, realm, tenant, lifetimes }: Identity, asked: readonly Asked[]): Promise<ReadonlyMap<number, Rotated>> {
  const all = <T>(part: (rotation: Rotation) => T): readonly T[] => asked.map(({ rotation }) => part(rotation))
  const values = [
    realm, all(({ family }) => family), all(({ presented }) => presented), all(({ next }) => next), all(({ salt }) => salt), all(({ attempt }) => attempt),
    all(({ agent }) => agent), all(({ prefix }) => prefix), lifetimes.idle,
  ]
  // Nothing of a visitor is kept by it; the request names the trip in the events of the gate.
  const caller = systemCaller('refresh', tenant, { requestId: asked[0]?.visitor.requestId ?? '', address: null })
  const rows = await transaction.one<typeof gate.actions, Place>(gate, caller, 'auth.refreshed', { name: 'redoubt.refresh_sessions', text: manyText, values })
  return new Map(rows.map(({ place, ...row }) => [place - 1, { ...row, outcome: 'rotated', salt: null }]))
}

/** What the many did not answer is asked alone: a token that is not the newest, and a row that somebody else held. */
function send(identity: Identity, asked: readonly Asked[]): void {
  const [first] = asked
  if (asked.length === 1 && first !== undefined) return first.answer(alone(identity, first))
  const rotated = together(identity, asked)
  asked.forEach((one, index) => one.answer(rotated.then((rows) => rows.get(index) ?? alone(identity, one))))
}

const waiting = new WeakMap<Identity, Asked[]>()

function flush(identity: Identity): void {
  const asked = waiting.get(identity) ?? []
  waiting.delete(identity)
  // One of each family: two tokens of one row cannot both be the newest, and which of them comes first is the row's to say.
  const families = new Map<string, Asked>()
  for (const one of asked) {
    const family = one.rotation.family.toString('latin1')
    if (families.has(family)) send(identity, [one])
    else families.set(family, one)
  }
  const each = [...families.values()]
  for (let at = 0; at < each.length; at += most) send(identity, each.slice(at, at + most))
}

/**
 * Rotates the row of a refresh token, in one trip to the database. Those that are asked for in one turn of the event loop
 * share it: in a burst, the least part of an exchange is the UPDATE (caller, verification, trip and COMMIT are the rest).
 * @throws Refusal as transaction.one does
 */
export function rotate(identity: Identity, visitor: Visitor, rotation: Rotation): Promise<Rotated | undefined> {
  return new Promise((answer) => {
    const asked = waiting.get(identity)
    if (asked !== undefined) return void asked.push({ visitor, rotation, answer })
    waiting.set(identity, [{ visitor, rotation, answer }])
    setImmediate(flush, identity)
  })
}
