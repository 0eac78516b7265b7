import { openAnchors } from 'redoubt/audit/anchor'
import { startSequencer } from 'redoubt/audit/sequencer'
import { openKeyring } from 'redoubt/keyring'
import { openKeyService } from 'redoubt/kms'
import { openPool } from 'redoubt/pg'
import { Refusal } from 'redoubt/errors'
import { exitCodes, onStop, openReports, run, say, settingsFrom } from './hands.ts'
import { tables } from './tables.ts'

const help = `therapy worker: seals the audit trail into its chain and anchors the head in ANCHOR_DIR, until SIGTERM or SIGINT

Several may run; one at a time works, the others stand by.
Exit codes: ${Object.entries(exitCodes).map(([name, code]) => `${code} ${name}`).join(', ')}`

run('therapy worker', async () => {
  if (process.argv.includes('--help')) return say(help)
  const settings = settingsFrom(process.env)
  const url = settings.WORKER_DATABASE_URL
  if (url === undefined) throw new Refusal('database_unavailable', { detail: 'WORKER_DATABASE_URL is not set' })
  const { log, emit } = openReports('therapy-worker', settings.LOG_LEVEL)
  const namedStatements = settings.DATABASE_NAMED_STATEMENTS
  const pool = openPool({ url, max: 2, namedStatements, emit })
  const keysPool = openPool({ url: settings.KEYS_DATABASE_URL, max: 1, namedStatements, emit })
  const keyService = await openKeyService(settings.KMS, { production: settings.NODE_ENV === 'production' })
  const keyring = openKeyring({ pool: keysPool, service: keyService, realm: tables.service, emit })
  const anchors = await openAnchors({ directory: settings.ANCHOR_DIR, service: tables.service, key: await keyring.purposeKey('audit-anchor') })
  const sequencer = startSequencer({ pool, anchors, emit })
  emit({ type: 'service.started', service: 'therapy-worker' })
  process.send?.({ working: true })

  onStop(async () => {
    emit({ type: 'service.stopping', service: 'therapy-worker' })
    await sequencer.stop()
    await anchors.close()
    keyring.close()
    keyService.close()
    await keysPool.close()
    await pool.close()
    emit({ type: 'service.stopped', service: 'therapy-worker' })
    log.close()
    process.exit(exitCodes.stopped)
  })
})
