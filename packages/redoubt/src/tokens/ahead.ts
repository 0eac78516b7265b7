import type { Tokens } from '../tokens.ts'
import { twoGenerations } from './cache.ts'
import type { Memory } from './cache.ts'

/** Whom an access token is for. */
export type Facts = { readonly actor: string; readonly session: string; readonly role: string; readonly tenant: string }
type Issued = ReturnType<Tokens['issue']>
/** made: what `also` gave for the facts. */
export type Ahead = { readonly facts: Facts; readonly issued: Issued; readonly made: Buffer }

/** What the row of a family said at its last exchange in this process. No token, nothing that opens anything. */
const memories = new WeakMap<Tokens, Memory<Facts>>()

function memoryOf(tokens: Tokens): Memory<Facts> {
  let memory = memories.get(tokens)
  if (memory === undefined) memories.set(tokens, (memory = twoGenerations<Facts>()))
  return memory
}

/**
 * Signs while the database works what it will most likely say: a signature takes 33 µs and more of a processor that went to
 * sleep, in the middle of a trip's waiting nothing. Begins after the statement is on its way, which the event loop's first
 * immediate sends.
 * @param family of the refresh token; also what else is computed of the facts meanwhile
 * @returns what was signed, for `issueFor` alone; undefined for a family that this process has not seen
 */
export async function signAhead(tokens: Tokens, family: Buffer, also: (facts: Facts) => Buffer): Promise<Ahead | undefined> {
  const facts = memoryOf(tokens).get(family.toString('latin1'))
  if (facts === undefined) return undefined
  await new Promise((resolve) => setImmediate(resolve))
  return { facts, issued: tokens.issue(facts), made: also(facts) }
}

/** Whether it was made of just these facts. */
export function isOf({ facts }: Ahead, { actor, session, role, tenant }: Facts): boolean {
  return facts.actor === actor && facts.session === session && facts.role === role && facts.tenant === tenant
}

/**
 * The access token for what the committed row says. What was signed ahead is it only where the row says just that;
 * otherwise (another role, say) it is dropped unseen.
 */
export function issueFor(tokens: Tokens, family: Buffer, row: Facts, ahead: Ahead | undefined): Issued {
  if (ahead !== undefined && isOf(ahead, row)) return ahead.issued
  const { actor, session, role, tenant } = row
  const facts = { actor, session, role, tenant }
  memoryOf(tokens).set(family.toString('latin1'), facts)
  return tokens.issue(facts)
}
