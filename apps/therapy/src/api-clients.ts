import { UsageProblem } from 'redoubt/cli/io'
import { systemCaller, type Visitor } from 'redoubt/context'
import { clientTokenRoute } from 'redoubt/http/client-token'
import { route, type Route } from 'redoubt/http/route'
import { createClient, isNetwork, listClients, overlapSeconds, revokeClient, rotateClient, type ClientRow } from 'redoubt/tokens/clients'
import { transaction } from 'redoubt/transaction'
import { z } from 'zod'
import { tenant, type App } from './app.ts'
import { idParams, line, rowId, utc, utcOf } from './fields.ts'

/** What an API client can be allowed here. Care data has no scope: no program has a care relationship. */
export const scopes = ['therapists:read'] as const

const clientBody = z.strictObject({
  name: line(1, 100),
  scopes: z.array(z.enum(scopes)).min(1).max(32),
  networks: z.array(z.string().max(50).refine(isNetwork, { params: { rule: 'network' } })).max(16).optional(),
})
const clientView = z.object({
  id: rowId, name: z.string(), scopes: z.array(z.string()), networks: z.array(z.string()), created_at: utc,
  rotated_at: utc.nullable(), previous_until: utc.nullable(), last_used_at: utc.nullable(), revoked_at: utc.nullable(),
})
const made = z.object({ client_id: rowId, client_secret: z.string() })

/** Signing in as an API client. */
export function clientTokenRoutes(app: App): readonly Route[] {
  return [clientTokenRoute({ gate: app.db, tokens: app.identity.tokens, keyring: app.identity.keyring, tenant, emit: app.emit })]
}

/** Making, rotating and revoking API clients, for administrators. */
export function apiClientRoutes(app: App): readonly Route[] {
  return [
    route({
      method: 'GET', path: '/api/api-clients', tags: ['admin'], summary: 'API clients, oldest first', access: ['admin'], answer: z.object({ items: z.array(clientView) }),
      handle: ({ caller }) => transaction(app.db, caller, 'client.viewed', async (tx) => ({ items: (await listClients(tx)).map(view) })),
    }),
    route({
      method: 'POST', path: '/api/api-clients', tags: ['admin'], summary: 'A new API client; its secret is shown this once', access: ['admin'], body: clientBody, answer: made, status: 201,
      handle: ({ caller, body }) => transaction(app.db, caller, 'client.created', async (tx) => shown(await createClient(tx, app.identity.keyring, { ...body, networks: body.networks ?? [] }))),
    }),
    route({
      method: 'POST', path: '/api/api-clients/{id}/rotate', tags: ['admin'], summary: 'A new secret; the one before it holds for overlap seconds, a day by default', access: ['admin'],
      params: idParams, body: z.strictObject({ overlap: z.int().min(0).max(30 * 24 * 3600).optional() }), answer: made, refuses: ['not_found', 'conflict'],
      handle: ({ caller, params, body }) => transaction(app.db, caller, 'client.rotated', async (tx) => shown(await rotateClient(tx, app.identity.keyring, params.id, body.overlap ?? overlapSeconds))),
    }),
    route({
      method: 'DELETE', path: '/api/api-clients/{id}', tags: ['admin'], summary: 'Ends an API client and all its tokens, at once and everywhere', access: ['admin'],
      params: idParams, answer: null, refuses: ['not_found'],
      handle: ({ caller, params }) => transaction(app.db, caller, 'client.revoked', (tx) => revokeClient(tx, params.id)),
    }),
  ]
}

function shown({ id, secret }: { readonly id: string; readonly secret: string }): z.input<typeof made> {
  return { client_id: id, client_secret: secret }
}

function view(row: ClientRow): z.input<typeof clientView> {
  const when = (date: Date | null): string | null => (date === null ? null : utcOf(date))
  return {
    ...row, scopes: [...row.scopes], networks: [...row.networks], created_at: utcOf(row.created_at),
    rotated_at: when(row.rotated_at), previous_until: when(row.previous_until), last_used_at: when(row.last_used_at), revoked_at: when(row.revoked_at),
  }
}

/** The operator's commands, as a system caller that may do nothing else. */
export type ClientCommand =
  | { readonly do: 'create'; readonly name: string; readonly scopes: readonly string[]; readonly networks: readonly string[] }
  | { readonly do: 'rotate' | 'revoke'; readonly id: string }

/** @returns id and secret; the secret is empty where a client was revoked. @throws Refusal not_found */
export async function runClientCommand(app: App, visitor: Visitor, command: ClientCommand): Promise<{ readonly id: string; readonly secret: string }> {
  const caller = systemCaller('api-clients', tenant, visitor)
  if (command.do === 'create') return transaction(app.db, caller, 'client.created', (tx) => createClient(tx, app.identity.keyring, command))
  if (command.do === 'rotate') return transaction(app.db, caller, 'client.rotated', (tx) => rotateClient(tx, app.identity.keyring, command.id))
  await transaction(app.db, caller, 'client.revoked', (tx) => revokeClient(tx, command.id))
  return { id: command.id, secret: '' }
}

/**
 * Reads `create <name> <scopes> [networks]`, `rotate <id>`, `revoke <id>`.
 * @throws UsageProblem saying what is wrong with it
 */
export function clientCommandOf(words: readonly string[]): ClientCommand {
  const [what, first = '', second, third, ...rest] = words
  if (what === 'rotate' || what === 'revoke') {
    if (!rowId.safeParse(first).success || second !== undefined) throw new UsageProblem(`api-client ${what} takes one word, the client’s id`)
    return { do: what, id: first }
  }
  if (what !== 'create') throw new UsageProblem('api-client: say which: create, rotate or revoke')
  const list = (text = ''): readonly string[] => text.split(',').filter((part) => part !== '')
  const [wanted, networks] = [list(second), list(third)]
  if (first === '' || first.length > 100 || wanted.length === 0 || rest.length > 0) throw new UsageProblem('api-client create takes a name of at most 100 characters, scopes, and networks if it shall be bound to some')
  const unknown = wanted.find((scope) => !(scopes as readonly string[]).includes(scope))
  if (unknown !== undefined) throw new UsageProblem(`api-client create: there is no scope ${unknown}; there is ${scopes.join(', ')}`)
  const wrong = networks.find((network) => !isNetwork(network))
  if (wrong !== undefined) throw new UsageProblem(`api-client create: ${wrong} is no address and no network such as 10.0.0.0/8`)
  return { do: 'create', name: first, scopes: wanted, networks }
}
