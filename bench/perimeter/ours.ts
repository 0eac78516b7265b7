import { createSecretKey, generateKeyPairSync, randomBytes, randomUUID } from 'node:crypto'
import { anyOf, bearer, cookie } from 'redoubt/http/authenticate'
import { openControls } from 'redoubt/http/controls'
import { sessionCookies } from 'redoubt/http/cookies'
import { openCsrf } from 'redoubt/http/csrf'
import { edgeLimits } from 'redoubt/http/limit'
import { mount } from 'redoubt/http/mount'
import { route } from 'redoubt/http/route'
import type { Step } from 'redoubt/http/visit'
import { perimeter, sequence } from 'redoubt/http'
import { openLimits } from 'redoubt/limits'
import { openRedis } from 'redoubt/redis'
import { openTokens } from 'redoubt/tokens'
import { z } from 'zod'
import { origin, people, quota, soon, type Headers } from './request.ts'

const emit = (): void => undefined

/** The whole perimeter with one route behind it: sessions by cookie with CSRF, and bearers, limits by caller and address. */
export async function ours(redisUrl: string | undefined, via: 'cookie' | 'bearer'): Promise<{ readonly step: Step; readonly headers: readonly Headers[] }> {
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
  const note = route({
    method: 'POST', path: '/api/notes', summary: 'A note', access: ['patient'], status: 201,
    body: z.strictObject({ title: z.string().min(2).max(60), text: z.string().max(1_000), stars: z.int().min(1).max(5) }),
    answer: z.object({ id: z.string(), title: z.string(), stars: z.int() }),
    handle: ({ caller, body }) => soon({ id: caller.actor, title: body.title, stars: body.stars }),
  })
  const step = sequence([
    ...perimeter({ trustedProxies: [], https: 'off', origins: [origin], credentials: true, controls, limit: limits.step, emit }),
    mount([note], { authenticate: limits.counting(anyOf(bearer(tokens), cookie(tokens, cookies))), roles: ['patient'], csrf, checks: [limits.check], emit }),
  ])
  const headers = await Promise.all(Array.from({ length: people }, async () => {
    const person = { actor: randomUUID(), session: randomUUID(), role: 'patient', tenant: 'clinic' }
    const { token } = tokens.issue(person)
    return via === 'bearer' ? { authorization: `Bearer ${token}` } : { cookie: `${cookies.names.access}=${token}`, 'x-csrf-token': await csrf.token(person.session) }
  }))
  return { step, headers }
}
