import 'reflect-metadata'
import type { RequestListener } from 'node:http'
import { Body, Controller, Get, Module, Post, Req, Res, UnprocessableEntityException } from '@nestjs/common'
import type { CanActivate, ExecutionContext, ModuleMetadata } from '@nestjs/common'
import { APP_GUARD, NestFactory } from '@nestjs/core'
import { ExpressAdapter, type NestExpressApplication } from '@nestjs/platform-express'
import { ThrottlerGuard, ThrottlerModule } from '@nestjs/throttler'
import cookieParser from 'cookie-parser'
import express, { type Request, type Response } from 'express'
import helmet from 'helmet'
import type { Middleware } from 'redoubt/http/request-state'
import { z } from 'zod'
import { throttlerStorage } from './nest-storage.ts'
import { origin, quota, soon } from './request.ts'
import { accountOf, signedCsrf } from './usual.ts'

type Note = { readonly title: string; readonly stars: number }
const shape = z.strictObject({ title: z.string().min(2).max(60), text: z.string().max(1_000), stars: z.int().min(1).max(5) })

/** Node takes no decorators: they are applied by hand, here and below. */
class Notes {
  add(note: Note): Promise<unknown> {
    return soon({ id: 'somebody', title: note.title, stars: note.stars })
  }
}
const method = (of: object, name: string): PropertyDescriptor => Object.getOwnPropertyDescriptor(of, name) ?? {}
Body()(Notes.prototype, 'add', 0)
Post('api/notes')(Notes.prototype, 'add', method(Notes.prototype, 'add'))
Controller()(Notes)

async function application(metadata: ModuleMetadata, bodyParser: boolean, dress: (app: NestExpressApplication) => void): Promise<RequestListener> {
  class Service {}
  Module(metadata)(Service)
  const http = express()
  const app = await NestFactory.create<NestExpressApplication>(Service, new ExpressAdapter(http), { bodyParser, logger: false })
  dress(app)
  await app.init()
  return http
}

/** NestJS with a route and nothing else. */
export function bareNest(): Promise<RequestListener> {
  return application({ controllers: [Notes] }, true, () => undefined)
}

/** NestJS with our perimeter and routes as its middleware. */
export function nestWith(step: Middleware): Promise<RequestListener> {
  return application({}, false, (app) => void app.use(step))
}

/**
 * Nest's usual stack, set well: throttler by address, helmet, CORS, csrf-csrf, a guard with jsonwebtoken and a KeyObject, a
 * schema.
 */
export async function usualNest(redisUrl: string | undefined): Promise<RequestListener> {
  const { doubleCsrfProtection, generateCsrfToken } = signedCsrf()
  class SignedIn implements CanActivate {
    canActivate(context: ExecutionContext): boolean {
      const req = context.switchToHttp().getRequest<Request & { account?: string }>()
      req.account = accountOf(req, 'key')
      return true
    }
  }
  class Guarded {
    add(req: Request & { readonly account?: string }, sent: unknown): Promise<unknown> {
      const { success, data } = shape.safeParse(sent)
      if (!success) throw new UnprocessableEntityException()
      return soon({ id: req.account, title: data.title, stars: data.stars })
    }
    csrf(req: Request, res: Response): void {
      res.send(generateCsrfToken(req, res))
    }
  }
  Req()(Guarded.prototype, 'add', 0)
  Body()(Guarded.prototype, 'add', 1)
  Post('api/notes')(Guarded.prototype, 'add', method(Guarded.prototype, 'add'))
  Req()(Guarded.prototype, 'csrf', 0)
  Res()(Guarded.prototype, 'csrf', 1)
  Get('api/csrf')(Guarded.prototype, 'csrf', method(Guarded.prototype, 'csrf'))
  Controller()(Guarded)
  const throttled = ThrottlerModule.forRoot({ throttlers: [{ limit: quota, ttl: 60_000 }], ...(redisUrl === undefined ? {} : { storage: await throttlerStorage(redisUrl) }) })
  const guards = [ThrottlerGuard, SignedIn].map((useClass) => ({ provide: APP_GUARD, useClass }))
  return application({ imports: [throttled], controllers: [Guarded], providers: guards }, true, (app) => {
    app.use(helmet(), cookieParser(), doubleCsrfProtection)
    app.enableCors({ origin: [origin], credentials: true })
  })
}
