import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { kekContext } from '../src/keyring/keks.ts'

const repository = join(import.meta.dirname, '../../..')
const runbook = (provider: string): string => readFileSync(join(repository, `docs/runbooks/key-service-${provider}.md`), 'utf8')
const source = (file: string): string => readFileSync(join(repository, `packages/redoubt/src/kms/${file}`), 'utf8')
const sorted = (names: Iterable<string>): readonly string[] => [...new Set(names)].sort()
const texts = (list: string): readonly string[] => [...list.matchAll(/"([^"]+)"/g)].map((match) => match[1] ?? '')

type Statement = { readonly Sid: string; readonly Action: readonly string[]; readonly Condition?: { readonly StringEquals: Readonly<Record<string, string>> } }

/** Statements of the Terraform document, in the form of the JSON one. */
function terraformStatements(markdown: string): readonly Statement[] {
  const [, document = ''] = /data "aws_iam_policy_document" "key" \{\n([^]*?)\n\}/.exec(markdown) ?? []
  return document.split(/^ {2}statement \{$/m).slice(1).map((text) => {
    const conditions = [...text.matchAll(/test\s+= "StringEquals"\s+variable = "([^"]+)"\s+values\s+= \["([^"]+)"\]/g)].map((match) => [match[1] ?? '', match[2] ?? ''] as const)
    return {
      Sid: /sid\s+= "(\w+)"/.exec(text)?.[1] ?? '', Action: texts(/actions\s*= \[([^]*?)\]/.exec(text)?.[1] ?? ''),
      ...(conditions.length === 0 ? {} : { Condition: { StringEquals: Object.fromEntries(conditions) } }),
    }
  })
}

function jsonStatements(markdown: string): readonly Statement[] {
  const [, json = ''] = /```json\n([^]*?)\n```/.exec(markdown) ?? []
  const { Statement } = JSON.parse(json) as { readonly Statement: readonly (Statement & Readonly<Record<string, unknown>>)[] }
  return Statement.map(({ Sid, Action, Condition }) => ({ Sid, Action, ...(Condition === undefined ? {} : { Condition }) }))
}

test('AWS: the key policy allows the service exactly what kms/aws.ts calls, and only under our encryption context', () => {
  const statements = jsonStatements(runbook('aws'))
  assert.deepEqual(terraformStatements(runbook('aws')), statements, 'Terraform and JSON say the same')
  const called = [...source('aws.ts').matchAll(/new (\w+)Command\(/g)].map((match) => match[1] ?? '')
  const needed = sorted(called.flatMap((name) => (name === 'ReEncrypt' ? ['kms:ReEncryptFrom', 'kms:ReEncryptTo'] : [`kms:${name}`])))
  const [administers, uses, checks] = statements
  assert.deepEqual(sorted(uses?.Action ?? []), needed)
  assert.deepEqual(checks?.Action, ['kms:GenerateDataKey', 'kms:Decrypt'])
  // What the service binds is what the policy asks for.
  const context = kekContext('therapy', 'data', 1)
  assert.deepEqual(uses?.Condition?.StringEquals, { 'kms:EncryptionContext:realm': context['realm'], 'kms:EncryptionContext:use': context['use'] })
  assert.ok(source('remote.ts').includes(`{ use: '${checks.Condition?.StringEquals['kms:EncryptionContext:use'] ?? 'nothing'}' }`))
  // Whoever administers the key cannot use it, and nobody may do everything.
  assert.deepEqual(administers?.Action.filter((action) => needed.includes(action) || action === 'kms:*'), [])
  assert.equal(statements.length, 3)
})

test('AWS: the key rotates, has an alias, is not deleted at once, and its use is logged', () => {
  for (const part of [/enable_key_rotation +=\strue/, /rotation_period_in_days/, /deletion_window_in_days = 30/, /resource "aws_kms_alias"/, /resource "aws_cloudtrail"/, /ScheduleKeyDeletion/]) assert.match(runbook('aws'), part)
})

test('Vault: the policy allows exactly the paths that kms/vault.ts asks for, and no create', () => {
  const methods: Readonly<Record<string, string>> = { GET: 'read', POST: 'update' }
  const called = [...source('vault.ts').matchAll(/call\('(GET|POST)', `([\w/]+)\/\$\{name\}`/g)].map((match) => `transit/${match[2] ?? ''}/redoubt-therapy ${methods[match[1] ?? ''] ?? ''}`)
  const allowed = [...runbook('vault').matchAll(/path "([^"]+)"\s+\{ capabilities = \[([^\]]+)\] \}/g)].map((match) => `${match[1] ?? ''} ${texts(match[2] ?? '').join(' ')}`)
  assert.deepEqual(sorted(allowed), sorted(called))
  assert.ok(called.length >= 5)
  for (const part of [/derived +=\strue/, /exportable +=\sfalse/, /auto_rotate_period/, /resource "vault_audit"/]) assert.match(runbook('vault'), part)
})

test('Azure: the role allows exactly the operations that kms/azure.ts asks for', () => {
  const code = source('azure.ts') + source('azure-vault.ts')
  const operations: readonly (readonly [RegExp, string])[] = [[/\.getKey\(/, 'read'], [/\.wrapKey\(/, 'wrap/action'], [/\.unwrapKey\(/, 'unwrap/action'], [/\.sign\(/, 'sign/action']]
  const needed = operations.filter(([call]) => call.test(code)).map(([, action]) => `Microsoft.KeyVault/vaults/keys/${action}`)
  const others = [...code.matchAll(/\.(encrypt|decrypt|encryptKey|rotateKey|createKey|importKey|beginDeleteKey|backupKey|verifyData|signData|updateKeyProperties)\(/g)].map((match) => match[1])
  assert.deepEqual(others, [], 'an operation that the runbook does not know')
  const allowed = texts(/data_actions = \[([^]*?)\]/.exec(runbook('azure'))?.[1] ?? '')
  assert.deepEqual(sorted(allowed), sorted(needed))
  assert.equal(needed.length, 4)
  for (const part of [/purge_protection_enabled +=\strue/, /rotation_policy/, /key_type +=\s"RSA-HSM"/, /category = "AuditEvent"/]) assert.match(runbook('azure'), part)
})

test('every detail of a refusal that a runbook lists is one that the providers give', async () => {
  const { troubles } = await import('../src/kms/trouble.ts')
  const details = Object.values(troubles).map(({ detail }) => detail as string)
  for (const provider of ['aws', 'azure', 'vault']) {
    const told = [...runbook(provider).matchAll(/^\| `([^`]+)` \|/gm)].map((match) => match[1] ?? '')
    // The first table of Vault and Azure lists settings, which are no sentences.
    for (const begin of told.filter((text) => text.includes(' '))) assert.ok(details.some((detail) => detail.startsWith(begin)), `${provider}: ${begin}`)
  }
})

test('secrets.md lists every secret setting of Therapy, with its owner and how often it is replaced', async () => {
  const { settings } = await import('../../../apps/therapy/src/config.ts')
  const rows = [...readFileSync(join(repository, 'docs/runbooks/secrets.md'), 'utf8').matchAll(/^\| `([A-Z_]+)` \|(.+)\|$/gm)].map((row) => [row[1] ?? '', row[2] ?? ''] as const)
  const missing = Object.entries(settings.settings).flatMap(([name, setting]) => {
    if (setting.rotateDays === null) return []
    const row = rows.find(([listed]) => listed === name)?.[1] ?? ''
    return row.includes(`| ${setting.owner} |`) && row.includes(`| ${setting.rotateDays} days |`) ? [] : [`${name}: ${setting.owner}, ${setting.rotateDays} days`]
  })
  assert.deepEqual(missing, [])
})

test('secrets.md gives each key the period after which keys status calls for its rotation', async () => {
  const { rotateAfterDays } = await import('../src/keyring/status.ts')
  const text = readFileSync(join(repository, 'docs/runbooks/secrets.md'), 'utf8')
  const days = (key: string): string => new RegExp(`^\\| ${key}[^|]*\\|[^|]*\\| ([^|]+) \\|`, 'm').exec(text)?.[1] ?? ''
  const told = { root: days('root'), keyEncryptionKey: days('key-encryption keys'), data: days('data keys'), index: days('blind-index keys'), tokenSign: days('`token-sign`'), otherSigning: days('`audit-anchor`'), caller: days('`caller`') }
  for (const [key, period] of Object.entries(rotateAfterDays)) {
    const row = told[key as keyof typeof told]
    assert.ok(period === 1 ? row === 'daily' : row.startsWith(`${period} days`), `${key}: ${row}`)
  }
})
