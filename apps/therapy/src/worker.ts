import { expireEntries } from 'redoubt/audit'
import { openAnchors } from 'redoubt/audit/anchor'
import { startSequencer } from 'redoubt/audit/sequencer'
import { startSweep } from 'redoubt/idempotency'
import { openKeyring } from 'redoubt/keyring'
import { startKeyUsage } from 'redoubt/keyring/usage'
import { startUsageWatch } from 'redoubt/keyring/usage-watch'
import { openKeyService } from 'redoubt/kms'
import { keyServiceOptions } from 'redoubt/kms/environment'
import { checkLogin, DatabaseRefused } from 'redoubt/migrate/check'
import { openMailer } from 'redoubt/mail'
import { forgetMail } from 'redoubt/outbox'
import { openPool } from 'redoubt/pg'
import { openSigner } from 'redoubt/transaction/signer'
import { Refusal } from 'redoubt/errors'
import { forgetCodes } from 'redoubt/tokens/codes'
import { forgetSessions } from 'redoubt/tokens/own-sessions'
import { forgetRegistrations } from 'redoubt/tokens/registrations'
import { exitCodes, exitCodesInWords, helpAsked, onStop, openReports, run, say, settingsFrom } from './process.ts'
import { startMail } from './letters.ts'
import { checkMigrations } from './sources.ts'
import { storedUrl } from './stored-url.ts'
import { tables } from './tables.ts'

const help = `therapy worker: seals the audit trail into its chain, anchors the head in ANCHOR_DIR, sends mail, deletes
expired idempotency keys, one-time codes and sessions, registrations never confirmed and entries of the audit whose time is
over, and tells unusual use of keys, until SIGTERM or SIGINT

Several may run; one at a time seals, the others stand by.
${exitCodesInWords}`

run('therapy worker', async () => {
  if (helpAsked(process.argv.slice(2))) return say(help)
  const settings = settingsFrom(process.env)
  const url = settings.WORKER_DATABASE_URL
  if (url === undefined) throw new Refusal('database_unavailable', { detail: 'WORKER_DATABASE_URL is not set' })
  const { log, emit } = openReports('therapy-worker', settings.LOG_LEVEL)
  const namedStatements = settings.DATABASE_NAMED_STATEMENTS
  const ends: (() => unknown)[] = [() => log.close()]
  const close = async (): Promise<void> => {
    for (const end of ends.splice(0).reverse()) await end()
  }
  try {
    const pool = openPool({ url, urlAgain: storedUrl(process.env, 'WORKER_DATABASE_URL'), max: 2, namedStatements, emit })
    const keysPool = openPool({ url: settings.KEYS_DATABASE_URL, urlAgain: storedUrl(process.env, 'KEYS_DATABASE_URL'), max: 1, namedStatements, emit })
    ends.push(() => pool.close(), () => keysPool.close())
    const findings = [...(await checkLogin(pool, `${tables.service}_worker`)), ...(await checkLogin(keysPool, `${tables.service}_keys`))]
    if (findings.length > 0) throw new DatabaseRefused(findings)
    await checkMigrations(pool)
    const keyService = await openKeyService(settings.KMS, { ...keyServiceOptions(process.env), production: settings.NODE_ENV === 'production', emit })
    ends.push(() => keyService.close())
    const usage = startKeyUsage({ pool: keysPool, emit })
    const keyring = openKeyring({ pool: keysPool, service: keyService, realm: tables.service, emit, usage })
    ends.push(() => usage.stop(), () => keyring.close())
    await keyring.check()
    const anchors = await openAnchors({ directory: settings.ANCHOR_DIR, service: tables.service, key: () => keyring.purposeKey('audit-anchor') })
    const sequencer = startSequencer({ pool, anchors, emit })
    const sweep = startSweep({ pool, emit, more: [forgetCodes, forgetSessions, forgetMail, forgetRegistrations, expireEntries] })
    const watch = startUsageWatch({ pool, emit })
    // At once: what runs on after a start that was refused would keep the process from ending.
    ends.push(() => anchors.close(), () => sequencer.stop(), () => sweep.stop(), () => watch.stop())
    const signer = await openSigner(keysPool, tables.service)
    ends.push(() => signer.close())
    const mailer = await openMailer({ url: settings.MAIL ?? 'file:.redoubt/mail', from: settings.MAIL_FROM, production: settings.NODE_ENV === 'production' })
    const outbox = startMail({ pool, signer, keyring, mailer, emit })
    ends.push(() => mailer.close(), () => outbox.stop())
  } catch (error) {
    await close()
    throw error
  }
  emit({ type: 'service.started', service: 'therapy-worker' })
  process.send?.({ working: true })

  onStop(async () => {
    emit({ type: 'service.stopping', service: 'therapy-worker' })
    await close()
    process.exit(exitCodes.stopped)
  })
})
