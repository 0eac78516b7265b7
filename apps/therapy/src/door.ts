import express from 'express'
import { createServer, type Server } from 'node:http'
import { isIP } from 'node:net'
import type { Emit } from 'redoubt/events'
import type { Health } from 'redoubt/health'
import { hardenServer, perimeter, sequence } from 'redoubt/http'
import { anyOf, bearer, cookie } from 'redoubt/http/authenticate'
import type { Controls } from 'redoubt/http/controls'
import type { EdgeLimits } from 'redoubt/http/limit'
import { byOneName, isLoopback } from 'redoubt/http/loopback'
import { mount } from 'redoubt/http/mount'
import type { PagesOptions } from 'redoubt/http/pages'
import { problems } from 'redoubt/http/problem'
import type { Route } from 'redoubt/http/route'
import { checkSession } from 'redoubt/tokens/own-sessions'
import type { App } from './app.ts'
import type { Settings as Config } from './config.ts'
import { hstsOf } from './rollout.ts'
import { renewal } from './sign-in.ts'

/** What differs between the doors of the service. */
export type Door = { readonly title: string; readonly origins: readonly [string, ...string[]]; readonly app: App; readonly roles: readonly string[]; readonly routes: readonly Route[]; readonly pages: PagesOptions }

export type DoorSettings = {
  readonly production: boolean
  readonly trustedProxies: readonly string[]
  readonly hsts: Config['HSTS'] | undefined
  readonly health: Health
  readonly controls: Controls
  readonly limits: EdgeLimits
  readonly emit: Emit
}

/** The name people type; one with a port of its own is nothing they type, and no redirect could keep it. */
function pageHostsOf(origin: string): readonly string[] {
  const { hostname, port } = new URL(origin)
  return port === '' && isIP(hostname) === 0 && !hostname.startsWith('[') ? [hostname] : []
}

/**
 * The server of one door, not listening yet: probes, perimeter, routes, answers to what fails.
 * @param shared what all doors have in common; hsts where HTTPS is not off, default a year
 */
export function openDoor(shared: DoorSettings, door: Door): Server {
  const { production, trustedProxies, health, controls, limits, emit } = shared
  const { app } = door
  const outside = express()
  outside.disable('x-powered-by')
  outside.disable('etag')
  // Before the perimeter: a probe speaks plain HTTP from inside, and learns nothing but names and ok or failed.
  outside.use((req, res, next) => health.handle(req, res, next))
  const steps = perimeter({
    trustedProxies, origins: door.origins, controls, limit: limits.step, emit,
    https: controls.modes.https, ...(controls.modes.https === 'enforce' ? { pageHosts: pageHostsOf(door.origins[0]) } : {}),
    ...(controls.modes.https === 'off' ? {} : { hsts: hstsOf[shared.hsts ?? 'year'] }),
  })
  const routes = mount(door.routes, {
    authenticate: limits.counting(anyOf(bearer(app.identity.tokens), cookie(app.identity.tokens, app.browser.cookies, renewal(app.identity)))),
    checks: [limits.check], standing: (caller) => checkSession(app.identity, caller), csrf: app.browser.csrf, roles: door.roles, emit, pages: door.pages,
    // Nobody outside needs it where the service is real, and whoever maps it for an attack shall do their own work.
    ...(production ? {} : { openapi: { title: door.title, version: '0.1.0', servers: [door.origins[0]] } }),
  })
  // One layer of Express instead of ten, and the head of an answer is written at once.
  outside.use(sequence([...steps, ...(isLoopback(door.origins[0]) ? [byOneName(door.origins[0])] : []), routes]))
  outside.use(problems({ emit }))
  const server = createServer(outside)
  hardenServer(server, emit)
  return server
}
