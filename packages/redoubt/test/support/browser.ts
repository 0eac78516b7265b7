import { createSecretKey } from 'node:crypto'
import type { Event } from '../../src/events.ts'
import { anyOf, bearer, cookie } from '../../src/http/authenticate.ts'
import type { ControlModes } from '../../src/controls.ts'
import { openControls } from '../../src/http/controls.ts'
import { sessionCookies } from '../../src/http/cookies.ts'
import { openCsrf } from '../../src/http/csrf.ts'
import type { Csrf } from '../../src/http/csrf.ts'
import type { Route } from '../../src/http/route.ts'
import type { MountOptions } from '../../src/http/mount.ts'
import { edge, session, tokenFor, tokens } from './edge.ts'
import type { Edge, Kind } from './edge.ts'

export const own = 'https://app.example.test'
export const friend = 'https://friend.example.test'
export const cookies = sessionCookies('edge')
export const secret = createSecretKey(Buffer.alloc(32, 7))

/** A service for browsers: sessions by cookie beside bearer, CSRF, and pages where `pages` is given. */
export async function browserEdge(
  kind: Kind, routes: readonly Route[], more: { readonly modes?: Partial<ControlModes>; readonly mount?: Partial<MountOptions> } = {},
): Promise<Edge & { readonly csrf: Csrf }> {
  const events: Event[] = []
  const emit = (event: Event): void => void events.push(event)
  const controls = openControls(more.modes ?? {}, { emit, insecureOff: true })
  const csrf = openCsrf({ secrets: () => Promise.resolve([secret]), origins: [own, friend], controls })
  const at = await edge(kind, { origins: [own, friend], controls, emit }, { routes, mount: { authenticate: anyOf(bearer(tokens), cookie(tokens, cookies)), csrf, emit, ...more.mount } })
  return { ...at, csrf, events }
}

/** The Cookie line of a signed-in browser. */
export const signedIn = (role = 'patient'): string => `${cookies.names.access}=${tokenFor(role)}; ${cookies.names.refresh}=r`
/** What a browser says of a request from a page of the service itself. */
export const fromOwn = { origin: own, 'sec-fetch-site': 'same-origin', 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' } as const
/** A token of the session that `tokenFor` issues for. */
export const tokenOf = (at: { readonly csrf: Csrf }): Promise<string> => at.csrf.token(session)
