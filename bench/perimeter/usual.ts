import { createSecretKey, randomBytes, randomUUID } from 'node:crypto'
import { createRequire } from 'node:module'
import { createClient } from '@redis/client'
import cookieParser from 'cookie-parser'
import cors from 'cors'
import { doubleCsrf } from 'csrf-csrf'
import type { NextFunction, Request, RequestHandler, Response } from 'express'
import express from 'express'
import { rateLimit } from 'express-rate-limit'
import { body, checkExact, validationResult } from 'express-validator'
import helmet from 'helmet'
import jwt from 'jsonwebtoken'
import { RateLimiterRedis } from 'rate-limiter-flexible'
import { origin, people, quota, soon, type Headers } from './request.ts'

/** Has no types of its own. */
const csurf = createRequire(import.meta.url)('csurf') as (options: { readonly cookie: boolean }) => RequestHandler

const secret = randomBytes(32).toString('hex')
const key = createSecretKey(randomBytes(32))
const claims = { algorithms: ['HS256' as const], audience: 'bench', issuer: origin }
export type Keyed = 'text' | 'key'

/** @returns the account that the cookie `access` is signed for. @throws when it is not signed by us, over, or for somebody else */
export function accountOf(req: Request, keyed: Keyed): string {
  const { access } = req.cookies as { readonly access?: string }
  const { sub } = jwt.verify(access ?? '', keyed === 'text' ? secret : key, claims) as jwt.JwtPayload
  return sub ?? ''
}

/** Cookies of people, and beside each the CSRF token and cookie that the server at `url` gives them. */
export async function signedIn(url: string, keyed: Keyed): Promise<readonly Headers[]> {
  return Promise.all(Array.from({ length: people }, async () => {
    const access = jwt.sign({ role: 'patient', session: randomUUID() }, keyed === 'text' ? secret : key, { subject: randomUUID(), audience: 'bench', issuer: origin, expiresIn: '1h' })
    const answer = await fetch(`${url}/api/csrf`, { headers: { cookie: `access=${access}` } })
    const set = answer.headers.getSetCookie().map((line) => line.split(';')[0])
    return { cookie: [`access=${access}`, ...set].join('; '), 'x-csrf-token': await answer.text() }
  }))
}

/** Double submit with an HMAC over the account, as the documentation of csrf-csrf has it. */
export function signedCsrf(): ReturnType<typeof doubleCsrf> {
  return doubleCsrf({ getSecret: () => secret, getSessionIdentifier: (req) => accountOf(req, 'key') })
}

/** In memory by express-rate-limit; in Redis by rate-limiter-flexible, which is its faster way. One by address, one by account. */
async function limiters(redisUrl: string | undefined): Promise<readonly [RequestHandler, RequestHandler]> {
  const named = (res: Response): string => String(res.locals['account'])
  if (redisUrl === undefined) {
    const shared = { windowMs: 60_000, limit: quota, standardHeaders: 'draft-8', legacyHeaders: false } as const
    return [rateLimit(shared), rateLimit({ ...shared, keyGenerator: (_req, res) => named(res) })]
  }
  const storeClient = createClient({ url: redisUrl, RESP: 2 })
  // The server of Redis ends before this process does.
  storeClient.on('error', () => undefined)
  await storeClient.connect()
  const of = (keyPrefix: string, who: (req: Request, res: Response) => string): RequestHandler => {
    const limiter = new RateLimiterRedis({ storeClient, useRedisPackage: true, keyPrefix, points: quota, duration: 60 })
    return async (req, res, next) => {
      const { remainingPoints, msBeforeNext } = await limiter.consume(who(req, res))
      res.setHeader('RateLimit', `limit=${quota}, remaining=${remainingPoints}, reset=${Math.ceil(msBeforeNext / 1000)}`)
      next()
    }
  }
  return [of('address', (req) => req.ip ?? ''), of('account', (_req, res) => named(res))]
}

/** The founding documents' stack (`text`, csurf), or the same set well (`key`: KeyObject, csrf-csrf). */
export async function usual(keyed: Keyed, redisUrl: string | undefined): Promise<express.Express> {
  const [byAddress, byAccount] = await limiters(redisUrl)
  const app = express()
  // Express prints each refusal otherwise.
  app.set('env', 'test')
  app.use(helmet(), cors({ origin: [origin], credentials: true }), byAddress, express.json(), cookieParser())
  if (keyed === 'text') {
    app.use(csurf({ cookie: true }))
    app.get('/api/csrf', (req, res) => void res.send((req as Request & { csrfToken(): string }).csrfToken()))
  } else {
    const { doubleCsrfProtection, generateCsrfToken } = signedCsrf()
    app.use(doubleCsrfProtection)
    app.get('/api/csrf', (req, res) => void res.send(generateCsrfToken(req, res)))
  }
  const authenticate = (req: Request, res: Response, next: NextFunction): void => {
    res.locals['account'] = accountOf(req, keyed)
    next()
  }
  const fields = checkExact([body('title').isString().isLength({ min: 2, max: 60 }), body('text').isString().isLength({ max: 1_000 }), body('stars').isInt({ min: 1, max: 5 })])
  app.post('/api/notes', authenticate, byAccount, fields, async (req: Request, res: Response) => {
    if (!validationResult(req).isEmpty()) return void res.status(422).end()
    const { title, stars } = req.body as { readonly title: string; readonly stars: number }
    res.status(201).json(await soon({ id: String(res.locals['account']), title, stars }))
  })
  return app
}
