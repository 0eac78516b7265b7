import { setTimeout as pause } from 'node:timers/promises'
import type { DemoAccount } from '../../../src/demo.ts'

/** What a client asks for. With a key it may be sent again until somebody answers. */
export type Wish = { readonly action: string; readonly method: 'GET' | 'POST'; readonly path: string; readonly body?: Readonly<Record<string, unknown>>; readonly key?: string }
/** A request that was acknowledged with 2xx: from here on it has to be true. */
export type Acknowledged = { readonly actor: string; readonly wish: Wish; readonly requestId: string; readonly status: number; readonly body: Answer }
export type Answer = { readonly id?: string; readonly items?: readonly { readonly id: string; readonly version: number }[] } & Readonly<Record<string, unknown>>

export type Person = { readonly account: DemoAccount; readonly id: string; token: string; readonly partners: readonly Partner[] }
/** The other side of a care relationship. */
export type Partner = { readonly relationship: string; readonly id: string }

export type Load = {
  /** Everything acknowledged since the last call. */
  take(): readonly Acknowledged[]
  readonly figures: { acknowledged: number; retried: number; refused: number; lost: number; repeated: number }
  readonly problems: string[]
  /** No new wish begins; resolves when every begun one was answered. */
  pause(): Promise<void>
  resume(): void
  /** Sends an acknowledged request once more under its key: the answer must be the same. */
  repeat(before: Acknowledged): Promise<void>
  stop(): Promise<void>
}

/** Seeded, so that a run can be repeated with the same choices (mulberry32); moments on the wire it does not bind. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const patience = 60_000
const json = { 'content-type': 'application/json' }

async function signIn(address: string, account: DemoAccount): Promise<{ readonly id: string; readonly token: string }> {
  const answer = await fetch(`${address}/api/auth/login`, { method: 'POST', headers: json, body: JSON.stringify({ email: account.email, password: account.password }), signal: AbortSignal.timeout(20_000) })
  if (answer.status !== 200) throw new Error(`signing in gave ${answer.status}`)
  const body = (await answer.json()) as { readonly access_token: string; readonly user_id: string }
  return { id: body.user_id, token: body.access_token }
}

/** Signs everybody in and finds out who is in whose care. */
export async function enter(address: string, accounts: readonly DemoAccount[]): Promise<readonly Person[]> {
  const people: Person[] = []
  for (const account of accounts) {
    const { id, token } = await signIn(address, account)
    const answer = await fetch(`${address}/api/relationships?state=active`, { headers: { authorization: `Bearer ${token}` } })
    const { items } = (await answer.json()) as { readonly items: readonly { readonly id: string; readonly therapist_id: string; readonly patient_id: string }[] }
    people.push({ account, id, token, partners: items.map((item) => ({ relationship: item.id, id: account.role === 'patient' ? item.therapist_id : item.patient_id })) })
  }
  return people
}

/** A repetition shows what was made as it is by then: a slot may have been booked, a message read. */
function lasting(body: Answer): string {
  return JSON.stringify(body, (name, value: unknown) => (['status', 'patient_id', 'version', 'read_at'].includes(name) ? undefined : value))
}

/** Two loops for each person: offering, booking, writing and reading, every write with a key and sent until it is answered. */
export function startLoad(address: string, people: readonly Person[], random: () => number): Load {
  const figures = { acknowledged: 0, retried: 0, refused: 0, lost: 0, repeated: 0 }
  const problems: string[] = []
  let acknowledged: Acknowledged[] = []
  let paused = false
  let stopping = false
  let resumed: PromiseWithResolvers<void> = Promise.withResolvers()
  let busy = 0
  let wishes = 0
  const firstSlot = Date.now() + 60 * 24 * 3_600_000
  const slots = new Map<string, number>()
  const pick = <T>(list: readonly T[]): T | undefined => list[Math.floor(random() * list.length)]

  /** One try. Undefined: the connection was lost, and nobody knows what became of the request. */
  async function once(person: Person, { method, path, body, key }: Wish): Promise<{ readonly status: number; readonly requestId: string; readonly body: Answer } | undefined> {
    try {
      const answer = await fetch(address + path, {
        method,
        headers: { authorization: `Bearer ${person.token}`, ...(body === undefined ? {} : json), ...(key === undefined ? {} : { 'idempotency-key': key }) },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
        signal: AbortSignal.timeout(20_000),
      })
      const text = await answer.text()
      return { status: answer.status, requestId: answer.headers.get('x-request-id') ?? '', body: (text === '' ? {} : JSON.parse(text)) as Answer }
    } catch {
      return undefined
    }
  }

  /** Sends until there is an answer that will not change: done, or refused. Undefined for the refused. */
  async function send(person: Person, wish: Wish): Promise<Acknowledged | undefined> {
    for (const until = performance.now() + patience; ; await pause(100 + random() * 200)) {
      const answer = await once(person, wish)
      if (answer !== undefined && answer.status >= 200 && answer.status < 300) {
        const done = { actor: person.id, wish, requestId: answer.requestId, status: answer.status, body: answer.body }
        acknowledged.push(done)
        figures.acknowledged += 1
        return done
      }
      const code = answer?.body['code']
      if (answer?.status === 401) {
        const again = await signIn(address, person.account).catch(() => undefined)
        if (again !== undefined) person.token = again.token
      } else if (answer !== undefined && answer.status < 500 && code !== 'request_in_progress') {
        figures.refused += 1
        if (!(wish.action.startsWith('appointment.') && (code === 'slot_taken' || code === 'version_conflict'))) problems.push(`${wish.method} ${wish.action} was refused: ${answer.status} ${String(code)}`)
        return undefined
      }
      if (answer?.status === 500) {
        problems.push(`${wish.action} was answered 500 ${String(code)}`)
        return undefined
      }
      figures[answer === undefined ? 'lost' : 'retried'] += 1
      if (performance.now() > until) {
        problems.push(`${wish.action} was not answered within ${patience / 1000} s (last ${answer?.status ?? 'no connection'})`)
        return undefined
      }
    }
  }

  const key = (): string => `crash-${firstSlot.toString(36)}-${++wishes}`
  const write = (action: string, path: string, body: Readonly<Record<string, unknown>>): Wish => ({ action, method: 'POST', path, body, key: key() })

  function message(partner: Partner): Wish {
    return write('message.sent', `/api/conversations/${partner.relationship}/messages`, { text: `Message ${wishes + 1}: see you on Thursday.` })
  }

  /** The slots of a therapist follow each other, and sometimes the same one is offered twice at once. */
  function offer(person: Person): Wish {
    const slot = slots.get(person.id) ?? 0
    if (random() < 0.8) slots.set(person.id, slot + 1)
    return write('appointment.created', '/api/appointments', { starts_at: new Date(firstSlot + slot * 900_000).toISOString(), minutes: 15, kind: 'video' })
  }

  async function therapistDoes(person: Person): Promise<void> {
    const partner = pick(person.partners)
    const choice = random()
    if (partner === undefined || choice < 0.5) await send(person, offer(person))
    else if (choice < 0.7) await send(person, message(partner))
    else if (choice < 0.9) await send(person, write('record.created', `/api/patients/${partner.id}/records`, { kind: 'plan', text: `Entry ${wishes + 1}: exercises as agreed.` }))
    else await send(person, { action: 'patient.viewed', method: 'GET', path: `/api/patients/${partner.id}` })
  }

  async function patientDoes(person: Person): Promise<void> {
    const partner = pick(person.partners)
    const choice = random()
    if (partner === undefined || choice < 0.2) return void (await send(person, { action: 'patient.viewed', method: 'GET', path: `/api/patients/${person.id}` }))
    if (choice < 0.5) return void (await send(person, message(partner)))
    const free = await send(person, { action: 'appointment.viewed', method: 'GET', path: `/api/appointments?therapist_id=${partner.id}&status=available&limit=5` })
    const slot = pick(free?.body.items ?? [])
    if (slot !== undefined) await send(person, write('appointment.booked', '/api/appointments', { slot_id: slot.id, version: slot.version }))
  }

  async function loop(person: Person): Promise<void> {
    while (!stopping) {
      if (paused) await resumed.promise
      busy += 1
      await (person.account.role === 'patient' ? patientDoes(person) : therapistDoes(person)).catch((error: unknown) => problems.push(`a client failed: ${String(error)}`))
      busy -= 1
      await pause(random() * 40)
    }
  }

  const loops = people.flatMap((person) => [loop(person), loop(person)])
  const byId = new Map(people.map((person) => [person.id, person]))
  const load: Load = {
    figures, problems,
    take() {
      const taken = acknowledged
      acknowledged = []
      return taken
    },
    async pause() {
      paused = true
      while (busy > 0) await pause(20)
    },
    resume() {
      paused = false
      const { resolve } = resumed
      resumed = Promise.withResolvers()
      resolve()
    },
    async repeat(before) {
      const person = byId.get(before.actor)
      const again = person === undefined ? undefined : await send(person, before.wish)
      figures.repeated += 1
      if (again === undefined || again.status !== before.status || lasting(again.body) !== lasting(before.body)) {
        problems.push(`${before.wish.action}: repeated under its key it was answered otherwise`)
      }
    },
    async stop() {
      stopping = true
      load.resume()
      await Promise.all(loops)
    },
  }
  return load
}
