import { generateKeyPairSync } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openAnchors } from 'redoubt/audit/anchor'
import { startSequencer } from 'redoubt/audit/sequencer'
import { openPool } from 'redoubt/pg'

/** The sequencer of a worker in a process of its own, with the settings of the service, until its parent lets go. */
const [url = '', service = ''] = process.argv.slice(2)
const directory = await mkdtemp(join(tmpdir(), 'redoubt-bench-anchors-'))
const { privateKey, publicKey } = generateKeyPairSync('ed25519')
const pool = openPool({ url, max: 2, emit: () => undefined })
const anchors = await openAnchors({ directory, service, key: { kid: 'bench', privateKey, verifiers: new Map([['bench', publicKey]]) } })
let sealed = 0
let milliseconds = 0
let failed = 0
const sequencer = startSequencer({
  pool, anchors,
  emit: (event) => {
    if (event.type === 'audit.sealed') {
      sealed += event.entries
      milliseconds += event.milliseconds
    }
    if (event.type === 'audit.failed') failed += 1
  },
})
/** What the parent is told when it asks. */
export type Told = { readonly sealed: number; readonly milliseconds: number; readonly failed: number }
process.on('message', () => process.send?.({ sealed, milliseconds, failed } satisfies Told))
process.send?.({ sealed, milliseconds, failed } satisfies Told)
process.on('disconnect', () => void end())

async function end(): Promise<void> {
  await sequencer.stop()
  await anchors.close()
  await pool.close()
  await rm(directory, { recursive: true, force: true })
}
