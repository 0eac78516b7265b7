import assert from 'node:assert/strict'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { after, suite, test } from 'node:test'
import { resumeAudit } from '../../src/audit.ts'
import { keyId, secretKey, wrapKey } from '../../src/aead.ts'
import { openColumns } from '../../src/columns.ts'
import { callerText } from '../../src/transaction/signer.ts'
import { makeAccount } from '../support/accounts.ts'
import { auditWorld } from '../support/audit.ts'
import { believed } from '../support/claims.ts'
import { testDatabase } from '../support/database.ts'
import { openTestGate } from '../support/gate.ts'
import { keysWorld } from '../support/keys.ts'
import { columnsOf, createPeople, openPerson, peopleTables, personColumns, plantPerson } from '../support/people.ts'

// The attacker is superuser of the database and nothing else: every row may be read, changed, added and put back. Out
// of reach: the key service, the memory of the processes, the place of the anchors. Module by module and in more ways:
// keyring.attacks.test.ts, seal.test.ts, attacks/audit.test.ts.

const database = await testDatabase({ origins: ['redoubt'] })
await createPeople(database)
const world = await keysWorld(database)
after(() => world.close())
const columns = columnsOf(database, world.keyring())
const [alice, bob] = [randomUUID(), randomUUID()]
const clear = { name: 'Adele', diagnosis: 'F32.1', phone: '+49 30 4711', address: 'Kastanienallee' }
const a = await plantPerson(database, columns, alice, clear)
const b = await plantPerson(database, columns, bob, { ...clear, name: 'Bruno' })
const second = await plantPerson(database, columns, alice, { ...clear, name: 'Adele once more' })
// Under the same row id and column number: the table alone tells the two places apart.
const relative = await columns.seal({ sealedUnder: () => undefined }, 'attacks.relatives', { id: a, person: alice, name: 'Her brother' })
await database.admin('insert into attacks.relatives values ($1, $2, $3)', [relative.id, relative.person, relative.name_enc])
await database.admin(`create schema saved; create table saved.people as table attacks.people;
  ${['key_encryption_keys', 'data_keys', 'erased'].map((name) => `create table saved.${name} as table keys.${name};`).join('')}`)

/** Does it past triggers and policies, looks at what a process that starts now makes of it, and puts everything back. */
async function tampered(sql: string, values: readonly unknown[] | undefined, look: () => Promise<void>): Promise<void> {
  await database.admin('set session_replication_role = replica')
  try {
    await database.admin(sql, values)
    await look()
  } finally {
    await database.admin(`delete from attacks.people; insert into attacks.people table saved.people; delete from keys.data_keys; delete from keys.key_encryption_keys; delete from keys.erased;
      insert into keys.key_encryption_keys table saved.key_encryption_keys; insert into keys.data_keys table saved.data_keys; insert into keys.erased table saved.erased; set session_replication_role = origin`)
  }
}
const hex = (bytes: Buffer): string => `'\\x${bytes.toString('hex')}'::bytea`
const fresh = (): ReturnType<typeof columnsOf> => columnsOf(database, world.keyring())
const refused = (code: string, ...ids: readonly string[]) => async (): Promise<void> => {
  for (const id of ids) await assert.rejects(openPerson(database, fresh(), id), { code })
}

/** Another id than any that there is, whatever digit this one begins with. */
const elsewhere = b.replace(/^./, (digit) => (digit === 'f' ? 'e' : 'f'))

suite('rows', () => {
  for (const [attack, sql, values, hit] of [
    ['given to another person', 'update attacks.people set person = $1 where id = $2', [bob, a], [a]],
    ['given another id', 'update attacks.people set id = $1 where id = $2', [elsewhere, a], [elsewhere]],
    ['two people’s ids exchanged', `update attacks.people p set person = o.person from attacks.people o where p.id in ($1, $2) and o.id in ($1, $2) and p.id <> o.id`, [a, b], [a, b]],
    ['a value of another person put in', 'update attacks.people set name_enc = (select name_enc from attacks.people where id = $1) where id = $2', [b, a], [a]],
    ['a value of another row of the same person', 'update attacks.people set name_enc = (select name_enc from attacks.people where id = $1) where id = $2', [second, a], [a]],
    ['two columns of a row exchanged', 'update attacks.people set name_enc = diagnosis_enc, diagnosis_enc = name_enc where id = $1', [a], [a]],
    ['two columns of another class exchanged', 'update attacks.people set phone_enc = address_enc, address_enc = phone_enc where id = $1', [a], [a]],
    ['a value put into a column of another retention class', 'update attacks.people set phone_enc = name_enc where id = $1', [a], [a]],
    ['a value of another table put in', 'update attacks.people set name_enc = (select name_enc from attacks.relatives) where id = $1', [a], [a]],
    ['a value cut by a byte', `update attacks.people set name_enc = substring(name_enc for octet_length(name_enc) - 1) where id = $1`, [a], [a]],
    ['a value cut to its tag', `update attacks.people set name_enc = substring(name_enc for 45) where id = $1`, [a], [a]],
    ['clear text where a sealed value stood', `update attacks.people set name_enc = 'Adele' where id = $1`, [a], [a]],
    ['zeros where a sealed value stood', `update attacks.people set name_enc = decode(repeat('00', 60), 'hex') where id = $1`, [a], [a]],
  ] as const) {
    test(`${attack}: always the one refusal`, () => tampered(sql, values, refused('sealed_value_refused', ...hit)))
  }

  test('any byte of a sealed value flipped: the same refusal, also where the byte names the key', async () => {
    const [row] = await database.admin<{ length: number }>('select octet_length(name_enc) as length from attacks.people where id = $1', [a])
    for (let at = 0; at < (row?.length ?? 0); at++) {
      await tampered(`update attacks.people set name_enc = set_byte(name_enc, ${at}, get_byte(name_enc, ${at}) # 1) where id = $1`, [a], refused('sealed_value_refused', a))
      await tampered(`update attacks.people set phone_enc = set_byte(phone_enc, ${at % 40}, get_byte(phone_enc, ${at % 40}) # 128) where id = $1`, [a], refused('sealed_value_refused', a))
    }
  })

  test('a row opened by another service over the same keys is refused', async () => {
    const other = openColumns(peopleTables('another'), world.keyring())
    const rows = await database.admin<{ id: string; person: string; name_enc: Buffer }>('select id, person, name_enc from attacks.people where id = $1', [a])
    await assert.rejects(other.open({ opened: () => undefined }, 'attacks.people', rows), { code: 'sealed_value_refused' })
  })
})

suite('keys', () => {
  const of = (person: string, keep = 'care'): string => `(subject = '${person}' and keep = '${keep}')`
  for (const [attack, sql, code] of [
    ['two wrapped keys exchanged', `update keys.data_keys d set wrapped = o.wrapped from keys.data_keys o where (d.${of(alice).slice(1, -1).replace('keep', 'd.keep')} and o.${of(bob).slice(1, -1).replace('keep', 'o.keep')})`, 'key_refused'],
    ['a key given to another person', `delete from keys.data_keys where ${of(bob)}; update keys.data_keys set subject = '${bob}' where ${of(alice)}`, 'key_refused'],
    ['a key given another retention class', `delete from keys.data_keys where ${of(alice, 'contact')}; update keys.data_keys set keep = 'contact' where ${of(alice)}`, 'key_refused'],
    ['a key given to another tenant', `update keys.data_keys set tenant = 'other' where ${of(alice)}`, 'key_refused'],
    ['a key taken away without an erasure', `delete from keys.data_keys where ${of(alice)}`, 'sealed_value_refused'],
    ['all key-encryption keys wrapped in noise', `update keys.key_encryption_keys set wrapped = sha256(wrapped) || sha256(id)`, 'key_refused'],
    ['a key-encryption key of another version', `update keys.key_encryption_keys set version = version + 1 where purpose = 'data'`, 'key_refused'],
  ] as const) {
    test(attack, () => tampered(sql, undefined, refused(code, a)))
  }

  test('a key-encryption key and a data key of the attacker’s own making, planted for what is written next', async () => {
    const kek = secretKey(randomBytes(32))
    const bytes = randomBytes(32)
    const id = keyId(secretKey(Buffer.from(bytes)))
    for (const root of [randomBytes(61), wrapKey(kek, Buffer.from('x'), bytes)]) {
      await tampered(
        `delete from keys.data_keys where subject = '${alice}' and keep = 'care'; update keys.key_encryption_keys set state = 'decrypt_only' where purpose = 'data';
         insert into keys.key_encryption_keys (id, purpose, version, provider, key_ref, wrapped) select ${hex(keyId(kek))}, 'data', 77, provider, key_ref, ${hex(root)} from keys.key_encryption_keys where purpose = 'data';
         insert into keys.data_keys (key_id, tenant, subject, keep, kek_id, wrapped) values (${hex(id)}, '${database.service}', '${alice}', 'care', ${hex(keyId(kek))}, ${hex(wrapKey(kek, Buffer.from('x'), bytes))})`,
        undefined,
        async () => {
          await assert.rejects(fresh().seal({ sealedUnder: () => undefined }, 'attacks.people', { id: a, person: alice, name: 'x' }), { code: 'key_refused' })
          // Nor for somebody who has no key yet, and would get one under it.
          await assert.rejects(fresh().seal({ sealedUnder: () => undefined }, 'attacks.people', { id: a, person: randomUUID(), name: 'x' }), { code: 'key_refused' })
        },
      )
    }
  })

  test('the keys of a forged erasure: nothing opens, nothing is made anew', () =>
    tampered(`insert into keys.erased (tenant, subject, keep) values ($1, $2, 'care')`, [database.service, alice], async () => {
      await assert.rejects(openPerson(database, fresh(), a), { code: 'key_destroyed' })
      await assert.rejects(fresh().seal({ sealedUnder: () => undefined }, 'attacks.people', { id: a, person: alice, name: 'x' }), { code: 'key_destroyed' })
    }))

  test('a genuine restore of rows and keys opens as before', async () => {
    await tampered('delete from attacks.people', undefined, async () => {
      await database.admin(`insert into attacks.people table saved.people`)
      assert.equal((await openPerson(database, fresh(), a))?.name, clear.name)
    })
    for (const id of [a, b, second]) assert.equal((await openPerson(database, fresh(), id))?.diagnosis, clear.diagnosis)
  })

  test('what is not promised: an older genuine value put back where it stood opens (no freshness)', async () => {
    const [before] = await database.admin<{ phone_enc: Buffer }>('select phone_enc from attacks.people where id = $1', [a])
    const newer = await columns.seal({ sealedUnder: () => undefined }, 'attacks.people', { id: a, person: alice, phone: 'newer' })
    await tampered('update attacks.people set phone_enc = $1 where id = $2', [newer.phone_enc, a], async () => {
      assert.equal((await openPerson(database, fresh(), a))?.phone, 'newer')
      await database.admin('update attacks.people set phone_enc = $1 where id = $2', [before?.phone_enc, a])
      assert.equal((await openPerson(database, fresh(), a))?.phone, clear.phone)
    })
  })
})

suite('a dumped caller key', () => {
  test('forges callers while its process lives, which is not promised otherwise; after its stop or replacement’s end nobody believes it', async () => {
    const alicesAccount = await makeAccount(database, 'alice')
    const opened = await openTestGate(database)
    const [dumped] = await database.admin<{ kid: string; inner_pad: Buffer; outer_pad: Buffer; hours: number }>(`select *, date_part('epoch', not_after - now())::float8 / 3600 as hours from guard.caller_keys`)
    assert.ok(dumped !== undefined && dumped.hours <= 26, 'a dump is worth a day and two hours at most')
    const sha256 = (...parts: readonly (Buffer | string)[]): Buffer => createHash('sha256').update(Buffer.concat(parts.map((part) => Buffer.from(part as string)))).digest()
    const forged = (): string => {
      const text = callerText(dumped.kid, `${database.service}/${database.name}`, alicesAccount, 'test.read', null, Date.now())
      return `${text}|${sha256(dumped.outer_pad, sha256(dumped.inner_pad, text)).toString('hex')}`
    }
    assert.equal(await believed(database, forged()), `patient ${alicesAccount.actor}`, 'the attack itself is right')
    const kept = await database.admin<{ not_after: Date }>(`update guard.caller_keys set not_after = now() - interval '1 second' where kid = $1 returning not_after`, [dumped.kid])
    assert.equal(kept.length, 1)
    assert.equal(await believed(database, forged()), 'RD401')
    await database.admin(`update guard.caller_keys set not_after = now() + interval '1 hour' where kid = $1`, [dumped.kid])
    await opened.close()
    assert.equal(await believed(database, forged()), 'RD401')
    // A restore begins without keys, and a process that starts on it works.
    await database.admin('delete from guard.caller_keys')
    const again = await openTestGate(database)
    assert.equal(await believed(database, again.signer.sign(alicesAccount, 'test.read', null)), `patient ${alicesAccount.actor}`)
    assert.equal(await believed(database, forged()), 'RD401')
    await again.close()
  })
})

suite('the record', () => {
  test('edited, deleted, reordered, cut, forged tombstone: each is reported; a genuine restore, resumed and signed, is not', async () => {
    const audited = await testDatabase({ origins: ['redoubt'] })
    const record = await auditWorld(audited)
    const tables = ['audit_logs', 'audit_subjects', 'audit_chain', 'audit_head', 'audit_anchors', 'audit_tombstones']
    const at = (seq: number): string => `(select entry_id from redoubt.audit_chain where seq = ${seq})`
    try {
      await record.write(12, { subjects: [alice] })
      await record.seal()
      await audited.admin(`create schema saved; ${tables.map((table) => `create table saved.${table} as table redoubt.${table};`).join('')}`)
      const back = tables.map((table) => `delete from redoubt.${table}; insert into redoubt.${table} table saved.${table};`).join('')
      assert.deepEqual((await record.verify()).problems, [])
      for (const [kind, sql] of [
        ['entry_altered', `update redoubt.audit_logs set outcome = 'refused:forbidden' where id = ${at(4)}`],
        ['entry_altered', `update redoubt.audit_logs set actor_id = gen_random_uuid(), actor_type = 'user' where id = ${at(4)}`],
        ['entry_missing', `delete from redoubt.audit_subjects where entry_id = ${at(5)}; delete from redoubt.audit_logs where id = ${at(5)}`],
        ['tombstone_forged', `insert into redoubt.audit_tombstones select 6, ${at(6)}, ${at(7)}; delete from redoubt.audit_subjects where entry_id = ${at(6)}; delete from redoubt.audit_logs where id = ${at(6)}`],
        ['link_broken', `update redoubt.audit_chain set seq = case seq when 3 then 1003 else 3 end where seq in (3, 8); update redoubt.audit_chain set seq = 8 where seq = 1003`],
        ['tail_cut', `delete from redoubt.audit_chain where seq > 9; delete from redoubt.audit_subjects s where not exists (select from redoubt.audit_chain c where c.entry_id = s.entry_id);
           delete from redoubt.audit_logs e where not exists (select from redoubt.audit_chain c where c.entry_id = e.id); update redoubt.audit_head set seq = 9, link = (select link from redoubt.audit_chain where seq = 9); delete from redoubt.audit_anchors where seq > 9`],
      ] as const) {
        await record.tamper(sql)
        const { problems } = await record.verify()
        assert.ok(problems.some((problem) => problem.kind === kind), `${kind}: ${problems.map((problem) => problem.kind).join()}`)
        await record.tamper(back)
      }
      // What an administrator of the database honestly does: last night's state, after more had been written.
      await record.write(5)
      await record.seal()
      await record.tamper(back)
      await resumeAudit({ pool: record.worker, anchors: record.anchors, publicKeys: record.key.verifiers, reason: 'restored from a backup' })
      await record.write(3)
      await record.seal()
      const { problems, discontinuities } = await record.verify()
      assert.deepEqual(problems, [])
      assert.equal(discontinuities.length, 1)
    } finally {
      await record.close()
    }
  })
})

test('everything is as it was planted', async () => {
  assert.deepEqual(await database.admin(`select ${personColumns} from attacks.people order by id`), await database.admin(`select ${personColumns} from saved.people order by id`))
})
