import type { ServerResponse } from 'node:http'
import { pipeline } from 'node:stream/promises'
import { assetContent } from './asset.ts'
import { disposition, safeType } from './download.ts'
import type { Download } from './download.ts'
import { assetHeaders, downloadHeaders, setHeaders } from './headers.ts'
import type { Fields } from './headers.ts'
import { setField, settleHead } from './head.ts'
import { htmlText } from './html.ts'
import { isPageAnswer } from './page.ts'
import { fieldProblems } from './parse.ts'
import { isReply } from './route.ts'
import type { Route } from './route.ts'
import { sendBytes, sendEmpty, sendJson } from './send.ts'

/**
 * Writes what a handler made, by the kind of its route.
 * @param fields the headers of this route where it is a page
 * @throws TypeError when it is not what the route declares
 */
export function answer(route: Route, res: ServerResponse, made: unknown, fields: Fields): void | Promise<void> {
  switch (route.kind) {
    case 'page':
      return answerPage(res, made, fields)
    case 'download':
      return answerDownload(res, made as Download)
    case 'asset': {
      const { bytes, type } = assetContent(route)
      setHeaders(res, assetHeaders)
      return sendBytes(res, 200, bytes, type)
    }
    default:
      return answerJson(route, res, made)
  }
}

function answerJson(route: Route, res: ServerResponse, made: unknown): void {
  const given = isReply(made) ? made : undefined
  const status = given?.status ?? route.status
  const value = given === undefined ? made : given.value
  let text: string | undefined
  if (route.answer !== null) {
    const shaped = route.answer.safeParse(value)
    if (!shaped.success) {
      const broken = fieldProblems(shaped.error.issues, value).map(({ field, rule }) => `${field} ${rule}`).join(', ')
      throw new TypeError(`${route.method} ${route.path}: the answer does not fit its schema: ${broken}`)
    }
    text = JSON.stringify(shaped.data)
  }
  if (given !== undefined) {
    // A handler spells the names of fields as it likes.
    settleHead(res)
    for (const [name, header] of Object.entries(given.headers)) setField(res, name, header)
    if (given.cookies.length > 0) setField(res, 'Set-Cookie', given.cookies)
  }
  if (text === undefined) sendEmpty(res, status)
  else sendJson(res, status, text)
}

/** Also for the page that tells of a refusal. */
export function answerPage(res: ServerResponse, made: unknown, fields: Fields, status = 200): void {
  const given = isPageAnswer(made) ? made : undefined
  settleHead(res)
  const text = given === undefined || given.page !== undefined ? htmlText(given?.page ?? made) : undefined
  setHeaders(res, fields)
  // The last of two with one name holds in a browser (RFC 6265 §5.3): what the handler sets stands behind what was renewed.
  for (const line of given?.cookies ?? []) res.appendHeader('Set-Cookie', line)
  if (given?.location !== undefined) setField(res, 'Location', given.location)
  if (text === undefined) return sendEmpty(res, 303)
  sendBytes(res, given?.status ?? status, Buffer.from(text, 'utf8'), 'text/html; charset=utf-8')
}

async function answerDownload(res: ServerResponse, file: Download): Promise<void> {
  const { name, type, content } = file
  settleHead(res)
  setHeaders(res, downloadHeaders)
  setField(res, 'Content-Disposition', disposition(name))
  if (Buffer.isBuffer(content)) return sendBytes(res, 200, content, safeType(type))
  res.statusCode = 200
  setField(res, 'Content-Type', safeType(type))
  await pipeline(content, res)
}
