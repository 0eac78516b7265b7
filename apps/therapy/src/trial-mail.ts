import { readFileSync } from 'node:fs'
import { newId } from 'redoubt/bytes'
import { defineSettings, modeOf, readConfig, type Environment } from 'redoubt/config'
import { openMailer, type MailerSettings } from 'redoubt/mail'
import { settings } from './config.ts'
import { mailTexts } from './mail-texts.ts'

/** What sending needs of the settings: whoever tries it out need not have the database at hand. */
const mailSettings = defineSettings({ prefix: settings.prefix, settings: { MAIL: settings.settings.MAIL, MAIL_FROM: settings.settings.MAIL_FROM }, rules: [] })

/** How this environment sends mail: MAIL, MAIL_FROM and the mode. @throws ConfigProblem naming what is wrong with them */
export function mailerSettings(env: Environment): MailerSettings {
  const mode = modeOf(env)
  const { MAIL, MAIL_FROM } = readConfig(mailSettings, { env, mode, readFile: (path) => readFileSync(path, 'utf8') })
  return { url: MAIL ?? 'file:.redoubt/mail', from: MAIL_FROM ?? 'no-reply@therapy.example.org', production: mode === 'production' }
}

/**
 * Sends one message at once, past the outbox: the operator's way to see that `MAIL` and `MAIL_FROM` are right.
 * @param to one e-mail address, which nothing but the message names
 * @returns what became of it, in words
 * @throws TypeError when `to` is none; Refusal mail_refused or mail_unavailable
 */
export async function sendTrialMail(given: MailerSettings, to: string): Promise<string> {
  const mailer = await openMailer(given)
  const id = newId()
  try {
    await mailer.send({ id, to, ...mailTexts.trial() })
  } finally {
    mailer.close()
  }
  const folder = given.url.startsWith('file:') ? given.url.slice('file:'.length) : undefined
  return folder === undefined
    ? `the mail server took message ${id}; whether it arrives is seen in the mailbox, or in its folder for unwanted mail`
    : `written to ${folder}, the file that ends in ${id}.eml; MAIL names a folder, so nothing leaves this machine`
}
