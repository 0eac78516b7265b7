import assert from 'node:assert/strict'
import { createHash, createPrivateKey, createPublicKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { anchorHolds, anchorText, lineHash, parseAnchor, signAnchor } from '../../src/audit/anchor-line.ts'
import { commitPersonal, personalHolds } from '../../src/audit/entry.ts'
import { entryCommitment, genesis, netstrings, nextLink, type EntryForm, type LinkForm } from '../../src/audit/form.ts'
import { testDatabase } from '../support/database.ts'

type Vectors = {
  readonly netstrings: readonly { readonly values: readonly (string | null)[]; readonly text: string }[]
  readonly genesis: { readonly service: string; readonly link: string }
  readonly entries: readonly { readonly form: EntryForm; readonly commitment: string }[]
  readonly links: readonly { readonly seq: string; readonly kind: LinkForm['kind']; readonly entry_id: string; readonly retain_until: string; readonly commitment: string; readonly previous: string; readonly link: string }[]
  readonly anchors: { readonly seed: string; readonly lines: readonly string[] }
  readonly personal: { readonly clear: string; readonly commitment: string }
}

const vectors = JSON.parse(await readFile(join(import.meta.dirname, '../vectors/audit.json'), 'utf8')) as Vectors
const database = await testDatabase({ origins: ['redoubt'] })
const hex = (text: string): Buffer => Buffer.from(text, 'hex')

test('the frozen vectors hold in this process', () => {
  for (const { values, text } of vectors.netstrings) assert.equal(netstrings(values), text)
  assert.equal(genesis(vectors.genesis.service).link.toString('hex'), vectors.genesis.link)
  for (const { form, commitment } of vectors.entries) assert.equal(entryCommitment(form).toString('hex'), commitment)
  for (const { seq, kind, entry_id: entryId, retain_until: retainUntil, commitment, previous, link } of vectors.links) {
    assert.equal(nextLink(hex(previous), { seq: BigInt(seq), kind, entryId, retainUntil, commitment: hex(commitment) }).toString('hex'), link)
  }
})

test('a commitment is SHA-256 of the text that docs/audit-format.md shows', () => {
  const { form, commitment } = vectors.entries[1] ?? assert.fail()
  const text = '21:redoubt.audit.entry.136:01930000-0000-7000-8000-0000000000021:32:-16:system-16:system.retention0:14:patient.viewed-0:-' +
    '17:refused:not_found3:r-12:{}-6:access18:253402214400000000-'
  assert.equal(createHash('sha256').update(text).digest('hex'), commitment)
  assert.equal(form.tenant_id, '')
})

test('the database computes the same', async () => {
  const micro = (value: string): string => new Date(Number(BigInt(value) / 1000n)).toISOString()
  for (const { form, commitment } of vectors.entries) {
    const { occurred_at: occurred, retain_until: retain, personal_commitment: personal, subjects, metadata, ...rest } = form
    const row = { ...rest, metadata: JSON.parse(metadata) as unknown, personal_commitment: personal === null ? null : `\\x${personal}` }
    const [found] = await database.admin<{ own: string; text: string }>(
      `select encode(guard.entry_commitment(e, $2), 'hex') as own, e.metadata::text as text
        from jsonb_populate_record(null::redoubt.audit_logs, $1::jsonb || jsonb_build_object(
          'occurred_at', timestamptz 'epoch' + $3::bigint * interval '1 microsecond',
          'retain_until', timestamptz 'epoch' + $4::bigint * interval '1 microsecond')) e`,
      [JSON.stringify(row), subjects, occurred, retain])
    assert.equal(found?.text, metadata)
    assert.equal(found.own, commitment, micro(retain))
  }
  for (const { seq, kind, entry_id: entryId, retain_until: retain, commitment, previous, link } of vectors.links) {
    const [found] = await database.admin<{ link: string }>(
      `select encode(guard.next_link(null, $1, $2, $3, $4, timestamptz 'epoch' + $5::bigint * interval '1 microsecond', $6), 'hex') as link`,
      [hex(previous), seq, kind, entryId, retain, hex(commitment)])
    assert.equal(found?.link, link)
  }
  const [head] = await database.admin<{ link: string }>(`select encode(link, 'hex') as link from redoubt.audit_head where seq = 0`)
  assert.equal(head?.link, genesis(database.service).link.toString('hex'))
})

test('the commitment takes in each value: none can be changed, swapped or moved to a neighbour', () => {
  const { form, commitment } = vectors.entries[0] ?? assert.fail()
  for (const name of Object.keys(form) as (keyof EntryForm)[]) {
    assert.notEqual(entryCommitment({ ...form, [name]: `${form[name]} ` }).toString('hex'), commitment, name)
    assert.notEqual(entryCommitment({ ...form, [name]: null }).toString('hex'), commitment, name)
  }
  assert.notDeepEqual(netstrings(['ab', 'c']), netstrings(['a', 'bc']))
  assert.notDeepEqual(netstrings([null, 'a']), netstrings(['-', 'a']))
  assert.notDeepEqual(netstrings([null]), netstrings(['']))
})

test('anchor lines: the frozen ones hold, and have one spelling only', () => {
  const privateKey = createPrivateKey({ key: Buffer.concat([hex('302e020100300506032b657004220420'), hex(vectors.anchors.seed)]), format: 'der', type: 'pkcs8' })
  const keys = new Map([['test-1', createPublicKey(privateKey)]])
  const [first = '', second = ''] = vectors.anchors.lines
  for (const line of [first, second]) {
    const anchor = parseAnchor(line)
    assert.ok(anchor !== undefined && anchorHolds(anchor, keys))
    assert.equal(anchorText(signAnchor(anchor, privateKey)), line)
  }
  assert.ok(parseAnchor(second)?.previous.equals(lineHash(first)))
  for (const other of [`${first} `, first.replace('{"v":1,', '{"v": 1,'), first.replace('"seq":"2"', '"seq":"02"'), first.slice(0, -1), '', 'null', '[]', '{}', first.replace('"v":1', '"v":2')]) {
    assert.equal(parseAnchor(other), undefined, other)
  }
})

test('the personal commitment: one that holds, and what does not', () => {
  const { clear, commitment } = vectors.personal
  assert.ok(personalHolds(clear, hex(commitment)))
  const [one, two] = [commitPersonal('192.0.2.7'), commitPersonal('192.0.2.7')]
  assert.ok(personalHolds(one.clear, one.commitment))
  assert.notDeepEqual(one.commitment, two.commitment, 'the salt is new each time, so equal addresses cannot be told')
  assert.equal(Buffer.from((JSON.parse(one.clear) as { salt: string }).salt, 'base64url').length, 16)
  for (const wrong of [clear.replace('::7', '::8'), two.clear, '', '{', 'null', '7', '{}', '{"salt":"AAAA","address":"2001:db8::7"}', '{"salt":7,"address":"a"}']) {
    assert.ok(!personalHolds(wrong, hex(commitment)), wrong)
  }
  assert.ok(!personalHolds(clear, Buffer.alloc(31)))
  assert.throws(() => commitPersonal(''), TypeError)
})
