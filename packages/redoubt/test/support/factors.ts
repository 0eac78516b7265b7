import assert from 'node:assert/strict'
import { generateSync } from 'otplib'
import { openColumns } from '../../src/columns.ts'
import type { Person } from '../../src/context.ts'
import { defineTables } from '../../src/tables.ts'
import { kernelRetention, kernelTables } from '../../src/tables/kernel.ts'
import { codeActions, openCodes } from '../../src/tokens/codes.ts'
import { factorActions, type Proof, type SecondFactors } from '../../src/tokens/factors.ts'
import { confirmTotp, enrolPasskey, enrolTotp, passkeyOptions } from '../../src/tokens/factors/enrol.ts'
import { openPasskeys } from '../../src/tokens/factors/passkey.ts'
import { beginSecondFactor, completeSecondFactor, type Pending } from '../../src/tokens/factors/sign-in.ts'
import { checkPassword, sessionActions, type SignedIn } from '../../src/tokens/sessions.ts'
import { stepUp } from '../../src/tokens/step-up.ts'
import type { TestDatabase } from './database.ts'
import { agent, openIdentity, password, visitor, type TestIdentity } from './identity.ts'
import { softwareAuthenticator, type Authenticator } from './authenticator.ts'
import { keysWorld } from './keys.ts'

export const origin = 'http://localhost:4310'

/** Somebody signed in, with an authenticator app. */
export type Protected = { readonly id: string; readonly indexes: Awaited<ReturnType<TestIdentity['account']>>['indexes']; readonly person: Person; readonly factor: string; readonly secret: string; readonly recovery: readonly string[] }

export type FactorWorld = {
  readonly factors: SecondFactors
  readonly identity: TestIdentity['identity']
  readonly opened: TestIdentity
  /** Notices put into transactions: topic, to whom, by which role. */
  readonly told: readonly string[]
  /** Moves the clock of codes and challenges; the database keeps its own. */
  travel(milliseconds: number): void
  /** Somebody signed in by password alone. */
  person(more?: Parameters<TestIdentity['account']>[0]): Promise<Omit<Protected, 'factor' | 'secret' | 'recovery'>>
  /** The same with an authenticator app, whose steps up to the present one count as unused. */
  guarded(): Promise<Protected>
  /** A passkey for this person; gives the factor's id. */
  passkey(of: { readonly person: Person }, authenticator: Authenticator, proof: Parameters<typeof stepUp>[3]['proof']): Promise<string>
  begin(of: Pick<Protected, 'indexes'>): Promise<Pending>
  complete(pending: string, proof: Proof, from?: { readonly agent?: string; readonly address?: string }): Promise<SignedIn>
  close(): Promise<void>
}

/** The code of a secret, some steps from now. */
export function codeOf(secret: string, steps = 0): string {
  return generateSync({ secret, epoch: Math.floor(Date.now() / 1000) + 30 * steps })
}

/** Six digits that are no code of the secret anywhere near now. */
export function wrongCode(secret: string): string {
  const near = [-3, -2, -1, 0, 1, 2, 3].map((steps) => codeOf(secret, steps))
  return ['000000', '111111', '222222', '333333', '444444', '555555', '666666', '777777'].find((code) => !near.includes(code)) ?? ''
}

export { softwareAuthenticator }

/** Second factors over a test database, as a process of a service opens them. */
export async function openFactorWorld(database: TestDatabase): Promise<FactorWorld> {
  const opened = await openIdentity(database)
  const world = await keysWorld(database)
  const keyring = world.keyring()
  const gate = { ...opened.identity.gate, actions: { ...opened.identity.gate.actions, ...sessionActions, ...codeActions, ...factorActions, 'test.act': { audited: true } } }
  const identity = { ...opened.identity, gate }
  const columns = openColumns(defineTables({ service: database.service, retention: kernelRetention, tables: kernelTables }), keyring)
  let shift = 0
  const now = (): number => Date.now() + shift
  const told: string[] = []
  const codes = openCodes({ keyring, gate, emit: gate.emit })
  const factors: SecondFactors = { gate, columns, codes, keyring, passkeys: openPasskeys({ origin, name: 'Test', keyring, now }), issuer: 'Test', resetHours: 24, emit: gate.emit, now,
    notify: (tx, topic, user) => {
      told.push(`${topic} ${user} ${tx.caller.role}`)
      return Promise.resolve()
    },
  }

  const person: FactorWorld['person'] = async (more) => {
    const { id, indexes } = await opened.account(more)
    const { token } = await opened.signIn(indexes, more?.realm === undefined ? {} : { realm: more.realm })
    return { id, indexes, person: { ...opened.person(token), address: visitor.address } }
  }

  return {
    factors, identity, opened, told, person,
    travel: (milliseconds) => {
      shift = milliseconds
    },
    async guarded() {
      const someone = await person()
      const { handle } = await stepUp(factors, identity, someone.person, { action: 'factor.enrol', resource: someone.id, proof: { kind: 'password', password } })
      const { id: factor, secret } = await enrolTotp(factors, someone.person, { label: 'phone', account: 'ada@example.test', stepUp: handle })
      const recovery = await confirmTotp(factors, someone.person, { factor, code: codeOf(secret) })
      await database.admin('update redoubt.mfa_factors set last_used_step = 0 where id = $1', [factor])
      return { ...someone, factor, secret, recovery: recovery ?? [] }
    },
    async passkey({ person: who }, authenticator, proof) {
      const { handle } = await stepUp(factors, identity, who, { action: 'factor.enrol', resource: who.actor, proof })
      const response = authenticator.create(await passkeyOptions(factors, who, { account: 'ada@example.test' }), { origin })
      return (await enrolPasskey(factors, who, { label: 'laptop', response, stepUp: handle })).id
    },
    async begin({ indexes }) {
      const pending = await beginSecondFactor(factors, identity, visitor, await checkPassword(identity, visitor, { indexes, password }), { agent })
      assert.ok(pending !== undefined)
      return pending
    },
    complete: (pending, proof, from = {}) => completeSecondFactor(factors, identity, { ...visitor, address: from.address ?? visitor.address }, { pending, proof, agent: from.agent ?? agent }),
    async close() {
      await opened.close()
      await world.close()
    },
  }
}
