import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { alone } from 'redoubt/cli/embedded/users'
import { UsageProblem } from 'redoubt/cli/io'
import { Refusal } from 'redoubt/errors'
import { openSink } from 'redoubt/log/sink'
import { scopes } from './api-clients.ts'
import type { App } from './app.ts'
import { workOf } from './commands.ts'
import { readDemoFile } from './demo-file.ts'
import { openDevelopment, placesIn, type Development } from './development.ts'
import { complain, exitCodes, forgetMailbox, helpAsked, openReports, run, say, settingsFrom, StartRefused } from './process.ts'
import { homeFrom, inHome } from './home.ts'
import { openService, serviceSettings } from './service.ts'
import { mailerSettings, sendTrialMail } from './trial-mail.ts'

const help = `npm run therapy -- <command>

  verify-therapist <e-mail>   marks a therapist's licence as verified, so that patients find and book them
  create-admin <e-mail>       makes an account that administers, and prints the password it begins with, this once
  create-auditor <e-mail>     the same for one that reads the record
      --new-password          for such an account that exists and has no second factor yet: it begins anew, with another
                              password and another day; what began before ends. Stands in the record
  recover-admin <e-mail>      for one that administers or audits, lost the second factor or the password, and has nobody
                              else who could ask for their recovery: all of it is gone at once, it begins anew as above,
                              and its owner is told by mail. Stands in the record
  api-client create <name> <scopes> [<networks>]
                              makes an API client and prints its id and secret, this once; scopes and networks are
                              comma-separated, scopes: ${scopes.join(', ')}
  api-client rotate <id>      gives it a new secret; the one before it holds for a day
  api-client revoke <id>      ends it and all its tokens at once
  send-test-mail <e-mail>     sends one message as MAIL and MAIL_FROM say, and tells what became of it

Whoever begins with such a password sets up a second factor and a password of their own, at ADMIN_ORIGIN,
within a day; until then they can do nothing else.
What is noteworthy is an event, as a line of JSON on stderr.
Works on DATABASE_URL and KEYS_DATABASE_URL, or without them on the embedded server of npm start, once that has started.
Exit codes: 0 done, 1 refused, nothing was changed, 2 wrong usage or settings`

/** What the world may refuse of each, where the code alone does not say it. */
const missing: Readonly<Record<string, string>> = {
  'verify-therapist': 'no account has this address, or it is not a therapist’s, or they are verified already',
  'api-client': 'no client has this id, or it is revoked',
}

run('therapy', async () => {
  const words = process.argv.slice(2)
  if (helpAsked(words)) return say(help)
  forgetMailbox()
  const [command = ''] = words
  try {
    const work = workOf(words)
    const home = process.env['DATABASE_URL'] === undefined ? homeFrom(process.env) : undefined
    say('mail' in work ? await mailTo(work.mail, home) : await onService(home, work.service))
  } catch (error) {
    if (error instanceof UsageProblem) {
      complain(words.length === 0 ? help : `therapy: ${error.message}; npm run therapy -- help tells how commands are given`)
      process.exitCode = exitCodes.refused
    } else if (error instanceof Refusal && ['not_found', 'already_exists', 'mail_refused', 'mail_unavailable'].includes(error.code)) {
      const why = error.detail ?? missing[command]
      complain(`therapy ${command}: ${command === 'send-test-mail' ? 'nothing was sent' : 'nothing was changed'}: ${error.message}${why === undefined ? '' : `: ${why}`}`)
      process.exitCode = exitCodes.failed
    } else throw error
  }
})

/** By the mail server of the environment, or into the folder of `npm start`. */
function mailTo(address: string, home: string | undefined): Promise<string> {
  const { MAIL } = process.env
  if (home === undefined) return sendTrialMail(mailerSettings(process.env), address)
  const send = (): Promise<string> => sendTrialMail(mailerSettings({ NODE_ENV: 'development', MAIL: placesIn(home).MAIL, ...process.env }), address)
  return MAIL === undefined ? inHome(home, send) : send()
}

/** With the service opened on what the environment names, or on the embedded server of `home`. */
async function onService(home: string | undefined, work: (app: App) => Promise<string>): Promise<string> {
  const development = home === undefined ? undefined : await embedded(home)
  // To stderr: what a command prints for its operator alone, such as a password, is on stdout.
  const { log, emit } = openReports('therapy-command', 'warn', openSink(2))
  try {
    const service = await openService({ ...serviceSettings(settingsFrom({ ...process.env, ...development?.env }), process.env, emit), poolSize: 1 })
    try {
      return await work(service.app)
    } finally {
      await service.close()
    }
  } finally {
    log.close()
    await development?.stop()
  }
}

/**
 * Not while a start prepares the same data, nor before one has: accounts made first would keep the demonstration from
 * being loaded, and those made over an interrupted one would go when the next start begins it anew.
 * @throws StartRefused where no start was ever complete
 */
async function embedded(home: string): Promise<Development> {
  const first = (): StartRefused => new StartRefused(`no npm start was ever complete in ${home}: run npm start first, then this beside it or after it`)
  // Asked before anything is made: a database of this command's own would help nobody.
  if (!existsSync(join(home, 'postgres'))) throw first()
  return inHome(home, () => alone(home, async () => {
    const interrupted = (await readDemoFile(home))?.state === 'begun'
    if (interrupted) throw first()
    const development = await openDevelopment({ home, emit: () => undefined })
    if (development.populated) return development
    await development.stop()
    throw first()
  }))
}
