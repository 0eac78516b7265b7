import { randomInt } from 'node:crypto'
import { setTimeout as pause } from 'node:timers/promises'
import { Refusal } from 'redoubt/errors'
import { register } from '../../../src/registration.ts'
import { confirmRegistration } from '../../../src/recovery.ts'
import type { Instance, Someone } from '../../support/clinic.ts'

/** What was asked, and everything that should not have been answered so. */
export type Figures = { reads: number; writes: number; searches: number; registrations: number; tokens: number; readonly failed: string[]; readonly wrong: string[] }

type Patient = { readonly first_name: string; readonly version: number } & Readonly<Record<string, unknown>>

/** The claims of a person's own token. */
function claimsOf(token: string): Readonly<Record<'sub' | 'sid' | 'role' | 'tenant', string>> {
  return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString('utf8')) as Readonly<Record<'sub' | 'sid' | 'role' | 'tenant', string>>
}

/**
 * People who read and write what is sealed under their own keys, each time through another instance than the last: a
 * token of one is verified by the other, an address written by one is found by the other.
 * @param found whether an account has one of these indexes, as sign-in asks, without the cost of a password
 */
export function startClients(instances: readonly Instance[], people: readonly Someone[], found: (indexes: readonly Buffer[]) => Promise<boolean>): { readonly figures: Figures; stop(): Promise<void> } {
  const figures: Figures = { reads: 0, writes: 0, searches: 0, registrations: 0, tokens: 0, failed: [], wrong: [] }
  let running = true
  const visitor = { requestId: 'rotation', address: null }

  async function client(person: Someone, n: number): Promise<void> {
    let turn = n
    const next = (): Instance => instances[turn++ % instances.length] as Instance
    const { sub, sid, role, tenant } = claimsOf(person.token)
    let token = person.token
    let issued = performance.now()
    let known: Patient | undefined
    while (running) {
      const instance = next()
      try {
        if (performance.now() - issued > 2_000) {
          token = instance.service.app.identity.tokens.issue({ actor: sub, session: sid, role, tenant }).token
          issued = performance.now()
          figures.tokens++
          continue
        }
        const kind = randomInt(20)
        if (kind < 9) {
          const { status, body, text } = await instance.send(token)('GET', `/api/patients/${person.id}`)
          figures.reads++
          if (status !== 200) figures.failed.push(`read: ${status} ${text.slice(0, 200)}`)
          else if (known !== undefined && body['first_name'] !== known.first_name) figures.wrong.push('read: not what was written last')
          else known = body as unknown as Patient
        } else if (kind < 15 && known !== undefined) {
          const { id: _id, therapist_id: _therapist, ...mine } = known
          const wish = { ...mine, first_name: `Ada ${turn}` }
          const { status, body, text } = await instance.send(token)('PUT', `/api/patients/${person.id}`, wish)
          figures.writes++
          if (status !== 200) figures.failed.push(`write: ${status} ${text.slice(0, 200)}`)
          else known = { ...(body as unknown as Patient), first_name: wish.first_name }
        } else if (kind < 19) {
          const indexes = await instance.service.app.columns.lookup('redoubt.users', 'email_bidx', person.email)
          figures.searches++
          if (!(await found(indexes))) figures.wrong.push('search: an address that has an account was not found')
        } else {
          figures.registrations++
          const { app } = instance.service
          const twice = await register(app, visitor, { role: 'patient', email: person.email, password: `correct horse ${turn} battery`, first_name: 'Eva', last_name: 'Winter', dob: '1990-01-01' }, new Date())
            .then(({ request, code }) => confirmRegistration(app, visitor, { handle: request, digits: code }))
            .then(() => true, (error: unknown) => {
              if (error instanceof Refusal && (error.code === 'already_exists' || error.code === 'busy')) return false
              throw error
            })
          if (twice) figures.wrong.push('registration: an address got a second account')
        }
      } catch (error) {
        figures.failed.push(error instanceof Refusal ? `${error.code} ${error.detail ?? ''}` : String(error))
      }
      await pause(2)
    }
  }

  const working = people.map(client)
  return {
    figures,
    async stop() {
      running = false
      await Promise.all(working)
    },
  }
}
