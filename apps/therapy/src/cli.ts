import { newId } from 'redoubt/bytes'
import { alone } from 'redoubt/cli/embedded/users'
import { Refusal } from 'redoubt/errors'
import { createAdministrator } from './administrators.ts'
import { clientCommandOf, runClientCommand, scopes, type ClientCommand } from './api-clients.ts'
import type { App } from './app.ts'
import { defaultHome, makeHome, openDevelopment, type Development } from './development.ts'
import { complain, exitCodes, run, say, settingsFrom } from './hands.ts'
import { openService, serviceSettings } from './service.ts'
import { verifyTherapist } from './verification.ts'

const help = `npm run therapy -- <command>

  verify-therapist <e-mail>   marks a therapist's licence as verified, so that patients find and book them
  create-admin <e-mail>       makes an account that administers, and prints the password it begins with, this once
  create-auditor <e-mail>     the same for one that reads the record
  api-client create <name> <scopes> [<networks>]
                              makes an API client and prints its id and secret, this once; scopes and networks are
                              comma-separated, scopes: ${scopes.join(', ')}
  api-client rotate <id>      gives it a new secret; the one before it holds for a day
  api-client revoke <id>      ends it and all its tokens at once

Whoever begins with such a password sets up a second factor and a password of their own, at ADMIN_ORIGIN,
within a day; until then they can do nothing else.
Works on DATABASE_URL and KEYS_DATABASE_URL, or without them on the embedded server of npm start.`

/** What was asked for, and what is said where nothing was found to do it on; undefined when it is no command. */
function workOf(words: readonly string[]): { work(app: App): Promise<string>; readonly missing: string } | undefined {
  const [command, ...rest] = words
  const visitor = { requestId: newId(), address: null }
  if (command === 'verify-therapist' && rest.length === 1) {
    return {
      work: async (app) => `verified ${await verifyTherapist(app, visitor, rest[0] ?? '')}`,
      missing: 'no account has this address, or it is not a therapist’s, or they are verified already',
    }
  }
  const role = command === 'create-admin' ? 'admin' : command === 'create-auditor' ? 'auditor' : undefined
  if (role !== undefined && rest.length === 1) {
    return {
      work: async (app) => {
        const { id, password } = await createAdministrator(app, visitor, rest[0] ?? '', role)
        return `created ${id}\npassword to begin with, shown this once: ${password}`
      },
      missing: 'the address has an account already, or it is none',
    }
  }
  const client = command === 'api-client' ? clientCommandOf(rest) : undefined
  if (client === undefined) return undefined
  return { work: async (app) => told(client, await runClientCommand(app, visitor, client)), missing: 'no client has this id, or it is revoked' }
}

function told(command: ClientCommand, { id, secret }: { readonly id: string; readonly secret: string }): string {
  return command.do === 'revoke' ? `revoked ${id}` : `client_id ${id}\nclient_secret ${secret}`
}

run('therapy', async () => {
  const words = process.argv.slice(2)
  if (words[0] === '--help') return say(help)
  const asked = workOf(words)
  if (asked === undefined) {
    complain(help)
    process.exitCode = exitCodes.refused
    return
  }
  const development = process.env['DATABASE_URL'] === undefined ? await embedded(process.env['REDOUBT_HOME'] ?? defaultHome) : undefined
  try {
    const settings = settingsFrom({ ...process.env, ...development?.env })
    const service = await openService({ ...serviceSettings(settings, process.env, () => undefined), poolSize: 1 })
    try {
      say(await asked.work(service.app))
    } catch (error) {
      if (!(error instanceof Refusal) || !['not_found', 'already_exists', 'invalid_input'].includes(error.code)) throw error
      complain(`therapy ${words[0] ?? ''}: nothing was changed: ${asked.missing}`)
      process.exitCode = exitCodes.failed
    } finally {
      await service.close()
    }
  } finally {
    await development?.stop()
  }
})

/** Not while a start prepares the same data. */
async function embedded(home: string): Promise<Development> {
  await makeHome(home)
  return alone(home, () => openDevelopment({ home, emit: () => undefined }))
}
