import type { Refusal } from './errors.ts'
import { fileMailer } from './mail/file.ts'

/** One message to one person. Plain text: nothing in it is fetched, followed or run. */
export type Mail = {
  /** Id of the row it was made from; the Message-ID is made from it, so that a copy is known as one. */
  readonly id: string
  /** One address, without a name. */
  readonly to: string
  readonly subject: string
  readonly text: string
}

/** What a transport gets: checked, with its Message-ID. */
export type Outgoing = Mail & { readonly messageId: string }
export type Transport = { send(mail: Outgoing): Promise<void>; close(): void }

export type Mailer = {
  /**
   * Hands a message over. What returns is the receiving server's answer: accepted, not yet read.
   * @throws TypeError for a message that cannot be one; Refusal mail_refused when repeating is of no use, mail_unavailable when it may be
   */
  send(mail: Mail): Promise<void>
  close(): void
}

export type MailerSettings = {
  /** `file:<folder>`, `smtp://user:password@host:587` (STARTTLS, always) or `smtps://user:password@host:465`. */
  readonly url: string
  /** Who it is from: `no-reply@therapy.example.org`. */
  readonly from: string
  /** True refuses `file:`. */
  readonly production: boolean
  /** PEM of an authority beside those the platform trusts. */
  readonly ca?: string
  /** Milliseconds until a silent server is given up. Default 10 000. */
  readonly timeout?: number
}

/** A new line in any of these would be another header, or another command of the protocol (RFC 5322 §2.2, RFC 5321 §4.1). */
const address = /^[^\s<>()[\]\\,;:"@\p{Cc}\u2028\u2029]{1,64}@[^\s<>()[\]\\,;:"@\p{Cc}\u2028\u2029]{1,253}$/u
const oneLine = /^[^\p{Cc}\u2028\u2029]{1,200}$/u
const rowId = /^[0-9a-f-]{36}$/

/** @throws TypeError naming what cannot be sent, without its value */
function check({ id, to, subject, text }: Mail): void {
  if (!rowId.test(id)) throw new TypeError('send: id must be the id of a row')
  if (!address.test(to)) throw new TypeError('send: to must be one address')
  if (!oneLine.test(subject)) throw new TypeError('send: subject must be one line of at most 200 characters')
  if (/[^\P{Cc}\n\t]/u.test(text) || text.length > 100_000) throw new TypeError('send: text must be lines of text, at most 100,000 characters')
}

/** The name of a message for ever: the same row gives the same (RFC 5322 §3.6.4). */
function messageId(id: string, from: string): string {
  return `<${id}@${from.slice(from.lastIndexOf('@') + 1)}>`
}

/**
 * The one way mail leaves. SMTP speaks TLS 1.2 or newer with a verified certificate, or not at all; its code is loaded
 * only when it is chosen.
 * @throws TypeError for a setting that cannot be meant, or a folder in production
 */
export async function openMailer(settings: MailerSettings): Promise<Mailer> {
  const { url, from, production, ca, timeout = 10_000 } = settings
  if (!address.test(from)) throw new TypeError('openMailer: from must be one address')
  if (!(Number.isInteger(timeout) && timeout > 0)) throw new TypeError('openMailer: timeout must be a positive whole number of milliseconds')
  const inner = url.startsWith('file:') ? refuseFile(production, url, from) : (await import('./mail/smtp.ts')).smtpMailer({ url, from, ca, timeout })
  return {
    async send(mail) {
      check(mail)
      await inner.send({ ...mail, messageId: messageId(mail.id, from) })
    },
    close: () => inner.close(),
  }
}

function refuseFile(production: boolean, url: string, from: string): Transport {
  if (production) throw new TypeError('openMailer: url must not be file: in production')
  return fileMailer(url.slice('file:'.length), from)
}

/** True for a refusal that repeating does not change: the receiving server said 5xx. */
export function isFinal(refusal: Refusal): boolean {
  return refusal.code === 'mail_refused'
}
