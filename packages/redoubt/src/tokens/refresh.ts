import { hash } from 'node:crypto'
import { systemCaller } from '../context.ts'
import type { Visitor } from '../context.ts'
import { Refusal } from '../errors.ts'
import type { IndexKey } from '../keyring.ts'
import { transaction } from '../transaction.ts'
import { isOf, issueFor, signAhead } from './ahead.ts'
import type { Facts } from './ahead.ts'
import { bindingKeys, isBound, sessionBinding } from './binding.ts'
import { addressPrefix, agentHash } from './device.ts'
import { familyHash, newSalt, readToken, successorOf, tokenHash } from './refresh-token.ts'
import { rotate } from './rotation.ts'
import { enrolmentRole } from './sessions.ts'
import type { Identity, SignedIn } from './sessions.ts'

/** Where the keys of successors stand among the keyring's HMAC keys: as a column of redoubt.sessions that does not exist. */
const keyPlace = { table: 2, column: 1 } as const

/**
 * Exchanges a refresh token for the next one and a new access token, in one trip to the database (RFC 9700 §4.14).
 *
 * A retry within ten seconds by the same sender, while the successor is unused, gets the same successor: one whose
 * answer was lost is not signed out. Any other use of a token that was exchanged ends the session. A row that
 * is not the one bound at the sign-in gives nothing, and ends. All refusals are one answer.
 * @param given.token as it was sent; given.attempt 128 bits, base64url, made by the client for this exchange and sent
 *   again with its retries; given.agent the User-Agent header, which stands in where there is no attempt
 * @throws Refusal caller_refused
 */
export async function refreshSession(
  identity: Identity,
  visitor: Visitor,
  given: { readonly token: string; readonly attempt?: string | undefined; readonly agent: string | undefined },
): Promise<SignedIn> {
  const { gate, tokens, emit, realm } = identity
  const { requestId } = visitor
  const presented = readToken(given.token)
  if (presented === undefined) throw new Refusal('caller_refused')
  const [keys, binding] = await Promise.all([identity.keyring.indexKeys(keyPlace.table, keyPlace.column), bindingKeys(identity.keyring, 'session')])
  const salt = newSalt(keys[0]?.version ?? 0)
  const next = successorOf(presented, salt, keys)
  if (next === undefined) throw new Refusal('key_refused')
  const attempt = given.attempt === undefined ? null : hash('sha256', given.attempt, 'buffer')
  const caller = systemCaller('refresh', identity.tenant, visitor)
  const family = familyHash(presented)
  const rotation = { family, presented: tokenHash(presented), next: tokenHash(next), salt, attempt, agent: agentHash(given.agent), prefix: addressPrefix(visitor.address) }
  const [newest] = binding
  if (newest === undefined) throw new Refusal('key_refused')
  const bindingOf = (key: IndexKey, { actor: user, session, role, tenant }: Facts): Buffer => sessionBinding(key, { session, user, tenant, realm, enrolling: role === enrolmentRole, family })
  const [row, ahead] = await Promise.all([rotate(identity, visitor, rotation), signAhead(tokens, family, (facts) => bindingOf(newest, facts))])
  if (row === undefined || row.outcome === 'unknown' || row.outcome === 'ended') {
    emit({ type: 'auth.refresh_refused', requestId, reason: row?.outcome === 'ended' ? 'ended' : 'unknown' })
    throw new Refusal('caller_refused')
  }
  const { outcome, actor, session, role } = row
  if (outcome === 'reused') {
    emit({ type: 'auth.refresh_reused', requestId, actor, session })
    await transaction(gate, caller, { action: 'auth.refresh_reused', resource: { type: 'session', id: session } }, () => Promise.resolve())
    throw new Refusal('caller_refused')
  }
  // Whoever writes the database can name anybody in a row, with the hash of a token of theirs.
  const expected = ahead !== undefined && isOf(ahead, row) && row.binding?.equals(ahead.made) === true
  if (!expected && !isBound(binding, row.binding, (key) => bindingOf(key, row))) {
    emit({ type: 'security.session_refused', requestId, actor, session })
    const refuse = { name: 'redoubt.refuse_session', text: 'select guard.refuse_session($1, $2)', values: [session, family] }
    await transaction(gate, caller, { action: 'auth.session_refused', resource: { type: 'session', id: session } }, (tx) => tx.query(refuse))
    throw new Refusal('caller_refused')
  }
  // The key of that exchange may have been destroyed since.
  const refresh = row.salt === null ? next : successorOf(presented, row.salt, keys)
  if (refresh === undefined) throw new Refusal('caller_refused')
  emit({ type: outcome === 'replayed' ? 'auth.refresh_replayed' : 'auth.refreshed', requestId, actor, session })
  const { token, expiresIn } = issueFor(tokens, family, row, ahead)
  return { token, expiresIn, refresh: refresh.toString('base64url'), session, actor, role }
}
