import { createSecretKey, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import type { RequestListener } from 'node:http'
import express, { type NextFunction, type Request, type Response } from 'express'
import { anyOf, bearer, cookie } from 'redoubt/http/authenticate'
import { openControls } from 'redoubt/http/controls'
import { sessionCookies } from 'redoubt/http/cookies'
import { openCsrf } from 'redoubt/http/csrf'
import { edgeLimits } from 'redoubt/http/limit'
import { mount } from 'redoubt/http/mount'
import { route } from 'redoubt/http/route'
import { visitorOf, type Middleware } from 'redoubt/http/request-state'
import { perimeter, sequence } from 'redoubt/http'
import { openLimits } from 'redoubt/limits'
import { openRedis } from 'redoubt/redis'
import { openTokens } from 'redoubt/tokens'
import { z } from 'zod'
import { origin, people, quota, soon, type Headers } from './request.ts'

const emit = (): void => undefined
const body = z.strictObject({ title: z.string().min(2).max(60), text: z.string().max(1_000), stars: z.int().min(1).max(5) })

/** A route of Express' own behind the perimeter, and a route of ours, with what its people send. */
type Ours = { readonly step: Middleware; readonly untouched: RequestListener; readonly headers: readonly Headers[] }

/** The whole perimeter with one route behind it: sessions by cookie with CSRF, and bearers, limits by caller and address. */
export async function ours(redisUrl: string | undefined, via: 'cookie' | 'bearer'): Promise<Ours> {
  const tokens = openTokens({ issuer: origin, audience: 'bench', keys: [{ kid: 'k1', ...generateKeyPairSync('ed25519') }] })
  const cookies = sessionCookies('bench')
  const secret = createSecretKey(randomBytes(32))
  const controls = openControls({}, { emit })
  const csrf = openCsrf({ secrets: () => Promise.resolve([secret]), origins: [origin], controls })
  const redis = redisUrl === undefined ? undefined : openRedis({ url: redisUrl, name: 'bench', timeout: 1_000, emit })
  await redis?.tried
  const limits = edgeLimits({
    limits: openLimits(redis === undefined ? {} : { shared: { redis, secret, prefix: 'bench' } }), mode: () => 'enforce', emit,
    numbers: { anonymous: quota, caller: quota, address: quota, flood: quota, signIn: 5, signInAddress: 20 },
  })
  const authenticate = limits.counting(anyOf(bearer(tokens), cookie(tokens, cookies)))
  const note = route({
    method: 'POST', path: '/api/notes', summary: 'A note', access: ['patient'], status: 201, body,
    answer: z.object({ id: z.string(), title: z.string(), stars: z.int() }),
    handle: ({ caller, body: sent }) => soon({ id: caller.actor, title: sent.title, stars: sent.stars }),
  })
  const steps = perimeter({ trustedProxies: [], https: 'off', origins: [origin], credentials: true, controls, limit: limits.step, emit })
  const step = sequence([...steps, mount([note], { authenticate, roles: ['patient'], csrf, checks: [limits.check], emit })])

  const admit = async (req: Request, res: Response, next: NextFunction): Promise<void> => {
    const visitor = visitorOf(req)
    const { caller, via: came } = await authenticate(req, visitor, 'api')
    if (came === 'cookie') csrf.fromOurPage(req.headers, visitor.requestId)
    await limits.check(req, res, { visitor, caller, via: came, route: note })
    if (came === 'cookie') await csrf.check(caller.session, req.get('x-csrf-token'), visitor.requestId)
    res.locals['actor'] = caller.actor
    next()
  }
  const app = express()
  app.use(sequence(steps) as express.RequestHandler)
  app.post('/api/notes', admit, express.json(), async (req: Request, res: Response) => {
    const { success, data } = body.safeParse(req.body)
    if (!success) return void res.status(422).end()
    res.status(201).json(await soon({ id: String(res.locals['actor']), title: data.title, stars: data.stars }))
  })

  const headers = await Promise.all(Array.from({ length: people }, async () => {
    const person = { actor: randomUUID(), session: randomUUID(), role: 'patient', tenant: 'clinic' }
    const { token } = tokens.issue(person)
    return via === 'bearer' ? { authorization: `Bearer ${token}` } : { cookie: `${cookies.names.access}=${token}`, 'x-csrf-token': await csrf.token(person.session) }
  }))
  return { step, untouched: app, headers }
}
