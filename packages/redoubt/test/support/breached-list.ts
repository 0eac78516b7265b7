import { readFileSync, writeFileSync } from 'node:fs'
import { bloom, positionsOf } from '../../src/tokens/breached.ts'

/*
 * Makes src/tokens/breached.bloom: npm pack @zxcvbn-ts/language-common, unpack it, and
 * node packages/redoubt/test/support/breached-list.ts <folder>/package/src/passwords.json
 */
const [path] = process.argv.slice(2)
if (path === undefined) throw new TypeError('give the path of passwords.json')
const filter = Buffer.alloc(bloom.bits / 8)
const passwords = JSON.parse(readFileSync(path, 'utf8')) as readonly string[]
for (const password of passwords) for (const at of positionsOf(password.toLowerCase())) filter[at >> 3] = (filter[at >> 3] ?? 0) | (1 << (at & 7))
writeFileSync(new URL('../../src/tokens/breached.bloom', import.meta.url), filter)
