import assert from 'node:assert/strict'
import { after } from 'node:test'
import type { Mail } from 'redoubt/mail'
import { openPool } from 'redoubt/pg'
import { openSigner } from 'redoubt/transaction/signer'
import { startMail } from '../../src/letters.ts'
import type { Clinic } from './clinic.ts'

export type PostOffice = {
  /** The newest mail to an address of which its subject or text says so, waited for. */
  mailTo(email: string, about: RegExp): Promise<string>
  /** The code of eight digits in it. */
  codeTo(email: string, about: RegExp): Promise<string>
}

/** The worker's half of a clinic, with a letter box in place of a mail server, until the end of the file. */
export async function openPostOffice({ database, service, events }: Clinic): Promise<PostOffice> {
  const emit = (event: (typeof events)[number]): void => void events.push(event)
  const received: Mail[] = []
  const pool = openPool({ url: database.url('worker'), max: 2, emit })
  const keysPool = openPool({ url: database.url('keys'), max: 1, emit })
  const signer = await openSigner(keysPool, database.service)
  const worker = startMail({
    pool, signer, keyring: service.keyring, emit, pace: { intervalMs: 20, leaseMs: 3_000, pauseMs: 100 },
    mailer: { send: (mail) => (received.push(mail), Promise.resolve()) },
  })
  after(async () => {
    await worker.stop()
    await signer.close()
    await keysPool.close()
    await pool.close()
  })
  const mailTo: PostOffice['mailTo'] = async (email, about) => {
    for (const end = performance.now() + 20_000; performance.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
      const found = received.findLast(({ to, subject, text }) => to === email && about.test(`${subject}\n${text}`))
      if (found !== undefined) return found.text
    }
    return assert.fail(`no mail to ${email} about ${about.source}; there are ${received.map(({ to, subject }) => `${to} ${subject}`).join(', ')}`)
  }
  return { mailTo, codeTo: async (email, about) => /^ +(\d{4} \d{4})$/m.exec(await mailTo(email, about))?.[1] ?? '' }
}
