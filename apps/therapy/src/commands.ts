import { newId } from 'redoubt/bytes'
import { UsageProblem } from 'redoubt/cli/io'
import { createAdministrator, recoverAdministrator, renewAdministrator } from './administrators.ts'
import { clientCommandOf, runClientCommand, type ClientCommand } from './api-clients.ts'
import type { App } from './app.ts'
import { email } from './fields.ts'
import { verifyTherapist } from './verification.ts'

/** What a command does; `service` with everything the service has, `mail` with the mail server alone. */
export type Work = { readonly service: (app: App) => Promise<string> } | { readonly mail: string }

/** The one word that a command takes. @throws UsageProblem where there is none, or more */
function oneAddress(command: string, rest: readonly string[]): string {
  const [address, ...more] = rest
  if (address === undefined || more.length > 0 || !email.safeParse(address).success) throw new UsageProblem(`${command} takes one e-mail address`)
  return address
}

/** What was asked for. @throws UsageProblem saying why it is no command */
export function workOf(words: readonly string[]): Work {
  const [command, ...rest] = words
  const visitor = { requestId: newId(), address: null }
  switch (command) {
    case 'verify-therapist': {
      const address = oneAddress(command, rest)
      return { service: async (app) => `verified ${await verifyTherapist(app, visitor, address)}` }
    }
    case 'create-admin':
    case 'create-auditor': {
      const role = command === 'create-admin' ? 'admin' : 'auditor'
      const again = rest.includes('--new-password')
      const address = oneAddress(command, rest.filter((word) => word !== '--new-password'))
      return {
        service: async (app) => {
          const { id, password } = await (again ? renewAdministrator : createAdministrator)(app, visitor, address, role)
          return `${again ? 'begins anew: ' : 'created '}${id}\npassword to begin with, shown this once: ${password}`
        },
      }
    }
    case 'recover-admin': {
      const address = oneAddress(command, rest)
      return {
        service: async (app) => {
          const { id, password } = await recoverAdministrator(app, visitor, address)
          return `begins anew, without a second factor and signed out everywhere: ${id}\npassword to begin with, shown this once: ${password}`
        },
      }
    }
    case 'api-client': {
      const client = clientCommandOf(rest)
      return { service: async (app) => told(client, await runClientCommand(app, visitor, client)) }
    }
    case 'send-test-mail':
      return { mail: oneAddress(command, rest) }
    default:
      throw new UsageProblem(`there is no command ${command ?? ''}`)
  }
}

function told(command: ClientCommand, { id, secret }: { readonly id: string; readonly secret: string }): string {
  return command.do === 'revoke' ? `revoked ${id}` : `client_id ${id}\nclient_secret ${secret}`
}
