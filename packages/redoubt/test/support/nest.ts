import 'reflect-metadata'
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { All, Controller, Inject, Module, Next, Req, Res } from '@nestjs/common'
import type { ArgumentsHost, ExceptionFilter } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { ExpressAdapter } from '@nestjs/platform-express'
import express from 'express'
import type { Emit } from '../../src/events.ts'
import { problems } from '../../src/http/problem.ts'
import { sequence } from '../../src/http.ts'
import type { Middleware } from '../../src/http/request-state.ts'

const routes = Symbol('routes')
type Next = (error?: unknown) => void

/**
 * Controllers that hand over to the mounted routes after Nest's own router has decided: by a parameter, by a path without
 * regard to case or a slash at the end, or by catching everything. Node takes no decorators, so they are applied by hand.
 */
class Things {
  readonly #api: Middleware
  constructor(api: Middleware) {
    this.#api = api
  }
  one(req: IncomingMessage, res: ServerResponse, next: Next): void {
    this.#api(req, res, next)
  }
  rest(req: IncomingMessage, res: ServerResponse, next: Next): void {
    this.#api(req, res, next)
  }
}

for (const [name, path] of [['one', 'api/things/:id'], ['rest', '{*path}']] as const) {
  ;[Req(), Res(), Next()].forEach((parameter, at) => parameter(Things.prototype, name, at))
  All(path)(Things.prototype, name, Object.getOwnPropertyDescriptor(Things.prototype, name) ?? {})
}
Inject(routes)(Things, undefined, 0)
Controller()(Things)

/** A NestJS application: `steps` as its middleware, `api` behind its controller, refusals through its exception filter. */
export async function nestApp(steps: readonly Middleware[], api: Middleware, emit: Emit): Promise<RequestListener> {
  class Service {}
  Module({ controllers: [Things], providers: [{ provide: routes, useValue: api }] })(Service)
  const http = express()
  const app = await NestFactory.create(Service, new ExpressAdapter(http), { bodyParser: false, logger: false })
  const refuse = problems({ emit })
  const filter: ExceptionFilter = {
    catch(error: unknown, host: ArgumentsHost) {
      const context = host.switchToHttp()
      refuse(error, context.getRequest<IncomingMessage>(), context.getResponse<ServerResponse>(), context.getNext<Next>())
    },
  }
  app.use(sequence(steps))
  app.useGlobalFilters(filter)
  await app.init()
  return http
}
