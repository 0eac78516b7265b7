import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { aligned, asksForHelp, counted, exits, UsageProblem, type Io } from './io.ts'
import { probe } from './probe/checks.ts'
import { outside } from './probe/ask.ts'

const usage = `redoubt probe <origin> [--page <path>] [--api <path>] [--plain <origin>] [--ca <file>] [--all]

Asks a deployment from outside, as a stranger: TLS, plain HTTP, headers of a page, of the API and of nothing, and
foreign origins. It signs in nowhere and changes nothing: some forty requests, one after the other.

  <origin>          https://…, as people type it
  --page <path>     a page that anybody sees (default /sign-in)
  --api <path>      a route that asks who calls (default /api/auth/me)
  --plain <origin>  where the same is reached in clear (default http://, port 80)
  --ca <file>       a certificate to trust beside those of the system
  --all             also what is as it should be

exit codes: 0 all is as it should be, 1 something is not, 2 wrong usage
`

function originOf(text: string, protocol: 'https:' | 'http:'): URL {
  if (!URL.canParse(text) || new URL(text).protocol !== protocol || new URL(text).origin !== text) throw new UsageProblem(`${protocol}// and a host is expected, without a path`)
  return new URL(text)
}

/** `redoubt probe`: what can be told of a deployment by asking from outside. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const given = parsed(args)
  const secure = originOf(given.origin, 'https:')
  const plain = originOf(given.plain ?? `http://${secure.hostname}`, 'http:')
  const ca = given.ca === undefined ? undefined : await readFile(resolve(io.cwd, given.ca), 'utf8')
  const findings = await probe(outside({ secure, plain, ca }), { page: given.page, api: given.api }, secure.hostname)
  const wrong = findings.filter(({ good }) => !good)
  const shown = given.all ? findings : wrong
  if (shown.length > 0) io.out(aligned(['', 'what', 'seen'], shown.map(({ good, what, seen }) => [good ? 'ok' : 'WRONG', what, seen])))
  io.out(wrong.length === 0 ? `${counted(findings.length, 'check')}: all is as it should be\n` : `${counted(findings.length, 'check')}: ${wrong.length} wrong\n`)
  return wrong.length === 0 ? exits.ok : exits.failed
}

function parsed(args: readonly string[]): { readonly origin: string; readonly page: string; readonly api: string; readonly plain: string | undefined; readonly ca: string | undefined; readonly all: boolean } {
  try {
    const { values, positionals } = parseArgs({
      args: [...args], allowPositionals: true,
      options: { page: { type: 'string', default: '/sign-in' }, api: { type: 'string', default: '/api/auth/me' }, plain: { type: 'string' }, ca: { type: 'string' }, all: { type: 'boolean', default: false } },
    })
    const [origin, ...more] = positionals
    if (origin === undefined || more.length > 0) throw new UsageProblem('say which origin, one')
    for (const path of [values.page, values.api]) if (!path.startsWith('/')) throw new UsageProblem('a path begins with /')
    return { origin, page: values.page, api: values.api, plain: values.plain, ca: values.ca, all: values.all }
  } catch (error) {
    if (error instanceof UsageProblem) throw error
    throw new UsageProblem(error instanceof Error ? error.message : 'this is no option')
  }
}
