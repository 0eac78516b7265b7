import { randomBytes } from 'node:crypto'
import type { Person, Visitor } from 'redoubt/context'
import { brokenRule } from 'redoubt/tokens/password-rules'
import { canonicalEmail, checkPassword, openSession, signOut } from 'redoubt/tokens/sessions'
import { transaction } from 'redoubt/transaction'
import type { actions } from './actions.ts'
import type { App } from './app.ts'
import { bookSlot, closeAppointment, offerSlot } from './appointments.ts'
import { register, type Registration } from './registration.ts'
import { giveConsent } from './consents.ts'
import { markRead, sendMessage } from './conversations.ts'
import { patients, therapists, type PatientStory, type TherapistStory } from './demo-story.ts'
import { releaseNote, writeNote } from './notes.ts'
import { readPatient, replacePatient } from './patients.ts'
import { confirmRegistration } from './recovery.ts'
import { addRecord, releaseRecord } from './records.ts'
import { acceptCare, requestCare } from './relationships.ts'
import { verifyTherapist } from './verification.ts'
import { instantOf, localTime } from './zones.ts'
import type { Tx } from 'redoubt/pg'

export type DemoAccount = { readonly name: string; readonly role: 'therapist' | 'patient'; readonly email: string; readonly password: string }

/** Passwords for the people of the demonstration, made here and printed by the start: 80 bits, easy to copy. */
export function demoAccounts(): readonly DemoAccount[] {
  const account = (name: string, role: DemoAccount['role']): DemoAccount => ({
    name, role, password: password(),
    email: `${name.replace(/^Dr\. /, '').normalize('NFD').replace(/\p{M}/gu, '').toLowerCase().replace(' ', '.')}@example.org`,
  })
  return [...therapists.map(({ name }) => account(name, 'therapist')), ...patients.map(({ first, last }) => account(`${first} ${last}`, 'patient'))]
}

function password(): string {
  const letters = 'abcdefghijkmnpqrstuvwxyz23456789'
  const made = [...randomBytes(16)].map((byte, i) => (i > 0 && i % 4 === 0 ? '-' : '') + (letters[byte & 31] ?? '')).join('')
  // The list of breached passwords is a Bloom filter: of 10,000 new ones it takes a few for its own.
  return brokenRule(made, []) === undefined ? made : password()
}

/** Something that happens at a moment; the story is told in the order of time, so that lists read as they would. */
type Beat = { readonly at: Date; readonly happens: () => Promise<void> }
type Cast = { readonly [T in TherapistStory['key']]: Person }

const day = 24 * 3_600_000

/**
 * Plays the story through the very functions that the routes call, each step in a transaction of the person who does
 * it: signed caller, policies, sealing and audit entries are the real ones. Only the clock is a story's clock. At the end
 * everybody signs out, so that nobody finds a device among their sessions that they never had.
 */
export async function playDemo(app: App, accounts: readonly DemoAccount[], now: Date): Promise<void> {
  const visitor: Visitor = { requestId: 'demo', address: null }
  const beats: Beat[] = []
  const accountOf = (name: string): DemoAccount => {
    const account = accounts.find((other) => other.name === name)
    if (account === undefined) throw new TypeError('playDemo: accounts must come from demoAccounts')
    return account
  }
  const enter = async (name: string, registration: Registration): Promise<Person> => {
    const { request, code } = await register(app, visitor, registration, now)
    await confirmRegistration(app, visitor, { handle: request, digits: code })
    if (registration.role === 'therapist') await verifyTherapist(app, visitor, registration.email)
    const person = await signedIn(app, visitor, accountOf(name))
    people.push(person)
    return person
  }
  const people: Person[] = []
  const cast: Partial<Record<TherapistStory['key'], Person>> = {}
  for (const story of therapists) {
    const { email, password: secret } = accountOf(story.name)
    const { name: display_name, specialisation, bio, licence: licence_number, price: price_minor, zone: time_zone } = story
    const person = await enter(story.name, { role: 'therapist', email, password: secret, display_name, specialisation, bio, licence_number, price_minor, currency: 'EUR', time_zone })
    cast[story.key] = person
    for (const [offset, time] of story.free) {
      beats.push({ at: new Date(now.getTime() - day), happens: () => as(app, person, 'appointment.created', async (tx) => void (await offerSlot(tx, person.actor, { starts_at: clock(now, offset, time, story.zone), minutes: 50, kind: 'video' }, now))) })
    }
  }
  for (const story of patients) {
    const name = `${story.first} ${story.last}`
    const { email, password: secret } = accountOf(name)
    const person = await enter(name, { role: 'patient', email, password: secret, first_name: story.first, last_name: story.last, dob: story.born, phone: story.phone.replaceAll(' ', '') })
    beats.push(...(await beatsOf(app, story, person, cast as Cast, now)))
  }
  for (const { happens } of beats.toSorted((a, b) => a.at.getTime() - b.at.getTime())) await happens()
  for (const person of people) await signOut(app.identity, person)
}

async function signedIn(app: App, visitor: Visitor, account: Pick<DemoAccount, 'email' | 'password'>): Promise<Person> {
  const indexes = await app.columns.lookup('redoubt.users', 'email_bidx', canonicalEmail(account.email))
  const checked = await checkPassword(app.identity, visitor, { indexes, password: account.password })
  const { token } = await openSession(app.identity, visitor, checked, { agent: undefined })
  const { actor, role, tenant, session } = app.identity.tokens.verify(token)
  return { kind: 'user', actor, role, tenant, session, ...visitor }
}

function as(app: App, person: Person, action: keyof typeof actions, work: (tx: Tx) => Promise<void>): Promise<void> {
  return transaction(app.db, person, action, work)
}

/** What a clock in `zone` shows at `time`, `offset` days from today there. */
function clock(now: Date, offset: number, time: string, zone: string): Date {
  return instantOf(`${localTime(new Date(now.getTime() + offset * day), zone).slice(0, 10)}T${time}`, zone)
}

/** The patient enters care at once, since all else hangs on it; what follows is given back as beats. */
async function beatsOf(app: App, story: PatientStory, patient: Person, cast: Cast, now: Date): Promise<readonly Beat[]> {
  const therapist = cast[story.therapist]
  const zone = therapists.find(({ key }) => key === story.therapist)?.zone ?? 'UTC'
  const began = new Date(clock(now, story.sessions.from, story.sessions.time, zone).getTime() - 10 * day)
  let relationship = ''
  await as(app, patient, 'consent.given', async (tx) => {
    await giveConsent(tx, patient.actor, { kind: 'processing', text_version: '2026-01' }, began)
    if (story.sessions.kind === 'video') await giveConsent(tx, patient.actor, { kind: 'video', text_version: '2026-01' }, began)
  })
  await as(app, patient, 'patient.updated', async (tx) => {
    const { id: _, therapist_id: __, ...data } = await readPatient(app, tx, patient.actor)
    await replacePatient(app, tx, patient.actor, { ...data, address: story.address, emergency_contact: story.emergency, insurance_no: story.insurance })
  })
  await as(app, patient, 'relationship.requested', async (tx) => {
    relationship = (await requestCare(tx, patient.actor, { therapist_id: therapist.actor, basis: 'self_referral' }, began)).id
  })
  await as(app, therapist, 'relationship.accepted', async (tx) => void (await acceptCare(tx, relationship, 1, new Date(began.getTime() + day))))

  const beats: Beat[] = []
  for (let week = 0; week < story.sessions.weeks; week += 1) {
    const start = clock(now, story.sessions.from + 7 * week, story.sessions.time, zone)
    let id = ''
    const before = new Date(Math.min(start.getTime() - 6 * day, now.getTime()))
    beats.push({
      at: before,
      happens: async () => {
        await as(app, therapist, 'appointment.created', async (tx) => {
          id = (await offerSlot(tx, therapist.actor, { starts_at: start, minutes: 50, kind: story.sessions.kind }, before)).id
        })
        await as(app, patient, 'appointment.booked', async (tx) => void (await bookSlot(tx, patient.actor, id, 1, before)))
      },
    })
    for (const note of story.notes.filter((other) => other.week === week)) {
      const author = note.by === 'patient' ? patient : therapist
      const at = new Date(start.getTime() + 3_600_000)
      if (at > now) continue
      beats.push({
        at,
        happens: () => as(app, author, 'note.created', async (tx) => {
          const { id: written } = await writeNote(app, tx, author.actor, id, note.text, at)
          if (note.released === true) await releaseNote(app, tx, author.actor, written, at)
        }),
      })
    }
    if (start.getTime() + 50 * 60_000 > now.getTime()) continue
    const closed = story.sessions.missed === week ? 'no_show' : 'completed'
    const at = new Date(start.getTime() + 55 * 60_000)
    beats.push({ at, happens: () => as(app, therapist, 'appointment.completed', async (tx) => void (await closeAppointment(tx, therapist.actor, id, 2, closed, at))) })
  }
  story.messages.forEach(([offset, from, text], index) => {
    const at = clock(now, offset, from === 'patient' ? '18:40' : '19:25', zone)
    const [sender, reader] = from === 'patient' ? [patient, therapist] : [therapist, patient]
    // The newest message is still unread.
    const read = index < story.messages.length - 1
    let id = ''
    beats.push({
      at,
      happens: async () => {
        await as(app, sender, 'message.sent', async (tx) => {
          id = (await sendMessage(app, tx, sender.actor, relationship, text, at)).id
        })
        if (read) await as(app, reader, 'message.marked_read', (tx) => markRead(tx, reader.actor, id, new Date(at.getTime() + 25 * 60_000)))
      },
    })
  })
  for (const entry of story.records) {
    const at = clock(now, entry.day, '20:05', zone)
    beats.push({
      at,
      happens: () => as(app, therapist, 'record.created', async (tx) => {
        const { id } = await addRecord(app, tx, therapist.actor, patient.actor, { kind: entry.kind, text: entry.text, icd_code: entry.icd, risk_level: entry.risk }, at)
        if (entry.released === true) await releaseRecord(app, tx, therapist.actor, id, 1, new Date(at.getTime() + 15 * 60_000))
      }),
    })
  }
  return beats
}
