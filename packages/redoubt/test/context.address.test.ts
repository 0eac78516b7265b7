import assert from 'node:assert/strict'
import { isIP } from 'node:net'
import { test } from 'node:test'
import { networkOf, parseAddress } from '../src/context/address.ts'

const network = (text: string): string | null => {
  const address = parseAddress(text)
  return address === null ? null : networkOf(address, { v4: 32, v6: 64 })
}

test('addresses become their networks', () => {
  const pairs: Readonly<Record<string, string | null>> = {
    '192.0.2.7': '192.0.2.7/32', '0.0.0.0': '0.0.0.0/32',
    '2001:db8:0:1:2:3:4:5': '2001:db8:0:1::/64', '2001:DB8::1': '2001:db8:0:0::/64', '::1': '0:0:0:0::/64', '::': '0:0:0:0::/64', 'fe80::1%eth0': 'fe80:0:0:0::/64', '1:2:3:4:5:6:7::': '1:2:3:4::/64',
    '::ffff:192.0.2.7': '192.0.2.7/32', '::FFFF:C000:0207': '192.0.2.7/32', '64:ff9b::c000:207': '192.0.2.7/32', '0:0:0:0:0:ffff:192.0.2.7': '192.0.2.7/32',
    '64:ff9b:1::c000:207': '64:ff9b:1:0::/64', '::192.0.2.7': '0:0:0:0::/64',
    '': null, 'localhost': null, '1.2.3': null, '1.2.3.4.5': null, '256.1.1.1': null, '01.2.3.4': null, '1.2.3.4/8': null, ':': null, ':::': null, '1::2::3': null, '1:2:3:4:5:6:7': null, '1:2:3:4:5:6:7:8:9': null, '12345::': null, 'g::': null, '::1.2.3': null, '1.2.3.4::': null,
  }
  for (const [text, wanted] of Object.entries(pairs)) assert.equal(network(text), wanted, text)
  const mapped = parseAddress('10.1.2.3')
  assert.ok(mapped !== null)
  assert.equal(networkOf(mapped, { v4: 24, v6: 48 }), '10.1.2.0/24')
})

test('what Node takes for an address, and only that, is one', () => {
  const parts = ['0', '1', '255', '256', 'ffff', '10000', '', ':', '::', '.', '192.0.2.1', 'a', 'g', '00', '%1']
  let same = 0
  for (let seed = 1; seed <= 20_000; seed++) {
    let rest = seed * 2_654_435_761
    let text = ''
    for (let i = 0; i < (seed % 9) + 1; i++) {
      text += `${parts[rest % parts.length] ?? ''}${['', ':', '.'][rest % 3] ?? ''}`
      rest = Math.floor(rest / 7)
    }
    if (text.includes('%')) continue
    assert.equal(parseAddress(text) !== null, isIP(text) !== 0, text)
    same++
  }
  assert.ok(same > 5_000)
})
