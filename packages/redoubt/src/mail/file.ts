import { rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder } from '../folder.ts'
import type { Transport } from '../mail.ts'

/** Text outside ASCII in a header (RFC 2047 §4.1). */
function word(text: string): string {
  return /^[\x20-\x7e]*$/.test(text) ? text : `=?utf-8?B?${Buffer.from(text, 'utf8').toString('base64')}?=`
}

/**
 * For development: each message becomes a file, readable by its owner alone, that a mail program opens.
 * @param folder made when it is missing
 */
export function fileMailer(folder: string, from: string): Transport {
  if (folder === '') throw new TypeError('openMailer: url must name a folder: file:<folder>')
  return {
    async send({ messageId, id, to, subject, text }) {
      const now = new Date()
      const head = [
        `Message-ID: ${messageId}`, `Date: ${now.toUTCString().replace('GMT', '+0000')}`, `From: <${from}>`, `To: <${to}>`, `Subject: ${word(subject)}`,
        'Auto-Submitted: auto-generated', 'MIME-Version: 1.0', 'Content-Type: text/plain; charset=utf-8', 'Content-Transfer-Encoding: 8bit',
      ]
      await makeFolder(folder, 0o700)
      // Named by time, so that the newest is the last; whole or not at all.
      const path = join(folder, `${now.toISOString().replaceAll(':', '-')}-${id}.eml`)
      await writeFile(`${path}.new`, `${head.join('\r\n')}\r\n\r\n${text.replaceAll('\n', '\r\n')}`, { mode: 0o600 })
      await rename(`${path}.new`, path)
    },
    close: () => undefined,
  }
}
