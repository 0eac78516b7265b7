import { createTransport } from 'nodemailer'
import { Refusal } from '../errors.ts'
import type { Transport } from '../mail.ts'

/** What nodemailer tells of a failure; its message may quote the server, and with it an address, so it stays here. */
type Trouble = { readonly code?: unknown; readonly responseCode?: unknown; readonly syscall?: unknown }

/** 5xx is the server's last word (RFC 5321 §4.2.1), but for a refused sign-in, which is ours to mend. The number is told; the server's words may quote an address. */
function refusalOf(error: unknown): Refusal {
  const { code, responseCode, syscall } = (error ?? {}) as Trouble
  if (code === 'EAUTH') return new Refusal('mail_unavailable', { detail: 'the mail server refused the sign-in' })
  if (code === 'EDNS') return new Refusal('mail_unavailable', { detail: 'there is no host of this name' })
  if (code === 'ETIMEDOUT') return new Refusal('mail_unavailable', { detail: 'the mail server does not answer' })
  if (syscall === 'connect') return new Refusal('mail_unavailable', { detail: 'nobody listens at this host and port' })
  if (code === 'ETLS' || code === 'ESOCKET') return new Refusal('mail_unavailable', { detail: 'there is no TLS connection to the mail server' })
  if (typeof responseCode !== 'number') return new Refusal('mail_unavailable')
  return new Refusal(responseCode >= 500 && responseCode < 600 ? 'mail_refused' : 'mail_unavailable', { detail: `it answered ${responseCode}` })
}

/**
 * SMTP over TLS: from the first byte (`smtps:`), or by STARTTLS without which nothing is sent (RFC 8314 §3, RFC 3207).
 * At most two connections; files and addresses inside a message are never fetched.
 */
export function smtpMailer(settings: { readonly url: string; readonly from: string; readonly ca: string | undefined; readonly timeout: number }): Transport {
  const { from, ca, timeout } = settings
  const url = new URL(settings.url)
  const secure = url.protocol === 'smtps:'
  if (!secure && url.protocol !== 'smtp:') throw new TypeError('openMailer: url must begin with file:, smtp: or smtps:')
  const user = decodeURIComponent(url.username)
  const transport = createTransport({
    pool: true, maxConnections: 2, maxMessages: 100,
    host: url.hostname, port: url.port === '' ? (secure ? 465 : 587) : Number(url.port), secure, requireTLS: !secure,
    ...(user === '' ? {} : { auth: { user, pass: decodeURIComponent(url.password) } }),
    connectionTimeout: timeout, greetingTimeout: timeout, socketTimeout: timeout, dnsTimeout: timeout,
    tls: { minVersion: 'TLSv1.2', rejectUnauthorized: true, ...(ca === undefined ? {} : { ca }) },
    disableFileAccess: true, disableUrlAccess: true, logger: false,
  })
  return {
    async send({ messageId, to, subject, text }) {
      try {
        // The envelope is given, not read from headers: it has one sender and one receiver whatever these say.
        await transport.sendMail({
          messageId, from: { name: '', address: from }, to: { name: '', address: to }, envelope: { from, to: [to] },
          subject, text, headers: { 'Auto-Submitted': 'auto-generated' },
        })
      } catch (error) {
        throw refusalOf(error)
      }
    },
    close: () => transport.close(),
  }
}
