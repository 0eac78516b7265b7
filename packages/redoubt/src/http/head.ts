import type { IncomingMessage, ServerResponse } from 'node:http'

/** Name, value, name, value …, with our own spelling of each name. */
type Head = (string | number | readonly string[])[]
const key = Symbol('redoubt head')
type Marked = ServerResponse & { [key]?: Head | undefined }

/** Steps and checks that touch the head by the functions of this file alone. */
const known = new WeakSet<object>()

/** @returns the same function, known to touch the head by the functions of this file alone */
export function keepsHead<F extends object>(step: F): F {
  known.add(step)
  return step
}

export function doesKeepHead(step: object): boolean {
  return known.has(step)
}

/**
 * From here on the fields are collected, and given to node:http at once with the status: one by one, each is checked and
 * spelt in small letters, and sixteen of them cost more than all that the perimeter looks at. Only where nobody else
 * sees this answer before it is sent; where a field stands already, each is set as it comes.
 */
export function collectHead(res: ServerResponse): void {
  if (res.getHeaderNames().length === 0) (res as Marked)[key] = []
}

/** Sets a field, in place of one of the same name. */
export function setField(res: ServerResponse, name: string, value: string | number | readonly string[]): void {
  const head = (res as Marked)[key]
  if (head === undefined) return void res.setHeader(name, value)
  for (let i = 0; i < head.length; i += 2) {
    if (head[i] === name) {
      head[i + 1] = value
      return
    }
  }
  head.push(name, value)
}

export function removeField(res: ServerResponse, name: string): void {
  const head = (res as Marked)[key]
  if (head === undefined) return res.removeHeader(name)
  for (let i = 0; i < head.length; i += 2) if (head[i] === name) return void head.splice(i, 2)
}

/** Hands what was collected to the answer itself: from here on others may read and change its fields. */
export function settleHead(res: ServerResponse): void {
  const head = (res as Marked)[key]
  if (head === undefined) return
  ;(res as Marked)[key] = undefined
  for (let i = 0; i < head.length; i += 2) res.setHeader(String(head[i]), head[i + 1] ?? '')
}

/** The status, and the head with it where it was collected; the body comes next. */
export function writeStatus(res: ServerResponse, status: number): void {
  const head = (res as Marked)[key]
  res.statusCode = status
  if (head === undefined) return
  ;(res as Marked)[key] = undefined
  res.writeHead(status, head as string[])
}

/** Express says it with each answer anew: it is told once to leave it. */
export function leaveUnnamed(req: IncomingMessage & { readonly app?: { disable?(setting: string): void } }, res: ServerResponse): void {
  if (!res.hasHeader('X-Powered-By')) return
  res.removeHeader('X-Powered-By')
  const { app } = req
  app?.disable?.('x-powered-by')
}
