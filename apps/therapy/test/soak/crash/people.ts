import type { AnchorKey } from 'redoubt/audit/anchor'
import { demoAccounts, playDemo, type DemoAccount } from '../../../src/demo.ts'
import { settingsFrom } from '../../../src/process.ts'
import { openService } from '../../../src/service.ts'
import type { Site } from './site.ts'

/** The people of the demonstration in the site's database, and the public keys of its anchors. */
export async function loadPeople(site: Pick<Site, 'env'>): Promise<{ readonly accounts: readonly DemoAccount[]; readonly key: AnchorKey }> {
  const settings = settingsFrom(site.env)
  const service = await openService({
    databaseUrl: settings.DATABASE_URL, keysUrl: settings.KEYS_DATABASE_URL, kms: settings.KMS, production: false, publicOrigin: settings.PUBLIC_ORIGIN, emit: () => undefined,
  })
  try {
    const accounts = demoAccounts()
    await playDemo(service.app, accounts, new Date())
    return { accounts, key: await service.keyring.purposeKey('audit-anchor') }
  } finally {
    await service.close()
  }
}
