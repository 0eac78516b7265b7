import { setTimeout as pause } from 'node:timers/promises'
import { moveKeks } from 'redoubt/keyring/move'
import { openRetirement } from 'redoubt/keyring/retire'
import { openRotation } from 'redoubt/keyring/rotate'
import { startKeyUsage } from 'redoubt/keyring/usage'
import { openKeyring } from 'redoubt/keyring'
import { openKeyService } from 'redoubt/kms'
import { openPool } from 'redoubt/pg'
import { runJobs } from 'redoubt/reencrypt'
import { provenFrom, sealedTables } from 'redoubt/reencrypt/proven'
import { tables } from '../../../src/tables.ts'
import type { Task } from '../rotation.ts'

/*
 * One rotation in a process of its own, killed at any moment by whoever started it. It says when it begins, since most
 * of its life is loading modules, and when it has done all.
 */
const task = JSON.parse(process.argv[2] ?? '{}') as Task
const emit = (): undefined => undefined
const pool = openPool({ url: task.keysUrl, max: 2, emit })
const service = await openKeyService('vault:transit/root', { production: false, vault: { address: task.vault, signIn: { method: 'token', token: task.token } } })
const usage = startKeyUsage({ pool, emit })
const settings = { pool, service, realm: task.realm, emit, usage, overlap: task.overlap }
const [rotation, retirement] = [openRotation(settings), openRetirement(settings)]
process.send?.('begun')

/** What is not there to be retired, or not yet, is no failure of a rotation that goes on in rounds. */
async function perhaps(work: () => Promise<unknown>): Promise<void> {
  await work().catch((error: unknown) => {
    const { code } = error as { readonly code?: unknown }
    if (code !== 'not_found' && code !== 'conflict') throw error
  })
}

/** Brings old values and indexes over, as `redoubt reencrypt run` does. */
async function reencrypt(only?: readonly string[]): Promise<void> {
  const jobs = openPool({ url: task.ownerUrl, max: 2, emit })
  const keyring = openKeyring({ pool, service, realm: task.realm, emit, usage })
  await runJobs({ tables, pool: jobs, keysPool: pool, keyring, emit, leaseSeconds: 2, ...(only === undefined ? {} : { only }) }, 'reencrypt')
  keyring.close()
  await jobs.close()
}

switch (task.level) {
  case 'root':
    await moveKeks({ ...settings, from: service, to: service })
    break
  case 'key-encryption':
    for (const purpose of ['data', 'index', 'purpose'] as const) {
      await rotation.keyEncryptionKey(purpose)
      await retirement.keyEncryptionKeys(purpose)
    }
    break
  case 'data':
    await rotation.dataKeys({ before: new Date(task.before) })
    await pause(task.overlap)
    await retirement.dataKeys(() => Promise.resolve(null))
    await reencrypt()
    await retirement.dataKeys(() => provenFrom(pool, sealedTables(tables)))
    break
  case 'index':
    await perhaps(() => rotation.indexKey({ table: 1, column: 2 }))
    // Known to all, then written by all.
    await pause(2 * task.overlap)
    await reencrypt(['redoubt.users'])
    await perhaps(() => retirement.indexKey({ table: 1, column: 2 }, () => provenFrom(pool, [1])))
    break
  case 'signing':
    await rotation.purposeKey('token-sign')
    await rotation.purposeKey('audit-anchor')
    await pause(task.overlap)
    // A token of this run lives for seconds; what is left of the ten minutes is waited for by nobody.
    await perhaps(() => retirement.purposeKeys('token-sign', task.overlap))
    await perhaps(() => retirement.purposeKeys('audit-anchor', null))
    break
  case 'caller':
    await pool.query({ text: 'select guard.expire_caller_keys(120)', values: [] })
    break
}
rotation.close()
retirement.close()
await usage.stop()
service.close()
await pool.close()
