import { randomInt, randomUUID } from 'node:crypto'
import type { LegacyForm } from '../../../src/tables.ts'
import { cryptoJs, gcmV1, signedToken } from '../../support/legacy.ts'

export type OldRow = { readonly id: string; readonly person: string; readonly stored: string; readonly sort: 'good' | 'corrupt' | 'empty' | 'truncated' | 'already' | 'duplicate' | 'placeholder'; readonly value: string }

const write: Readonly<Record<LegacyForm, (value: string, n: number) => string>> = {
  plaintext: (value) => value,
  base64: (value) => Buffer.from(value).toString('base64'),
  'gcm-v1': (value, n) => gcmV1(value, (['tag last', 'tag first', 'one part', 'hexadecimal'] as const)[n % 4] ?? 'tag last'),
  cryptojs: (value) => cryptoJs(value),
  'jwt-hs256': (value) => signedToken(value),
}

/** Another character in the middle; where a form cannot notice that by itself, one that it never has. */
function corrupted(form: LegacyForm, stored: string): string {
  const at = Math.floor(stored.length / 2) + 3
  const other = form === 'plaintext' || form === 'base64' ? '\u0001' : stored[at]?.toUpperCase() === 'A' ? 'B' : 'A'
  return stored.slice(0, at) + other + stored.slice(at + 1)
}

function truncated(form: LegacyForm, stored: string): string {
  return form === 'plaintext' ? stored.slice(0, 2) : form === 'base64' ? stored.slice(0, (stored.length & ~3) - 5) : stored.slice(0, Math.max(12, Math.floor(stored.length * 0.7)))
}

/** What an older system left, with everything that goes wrong in years. A tenth of the rows is not good. */
export function corpus(form: LegacyForm, count: number): readonly OldRow[] {
  const sorts = ['corrupt', 'empty', 'truncated', 'already', 'duplicate', 'placeholder'] as const
  let before = `first@${form}.org`
  return Array.from({ length: count }, (_, n) => {
    const sort = randomInt(10) === 0 && n > 0 ? (sorts[randomInt(sorts.length)] ?? 'good') : 'good'
    const value = sort === 'duplicate' ? before : `person.${n}@${form}.org`
    if (sort === 'good') before = value
    const stored = write[form](sort === 'placeholder' ? '??' : value, n)
    return { id: randomUUID(), person: randomUUID(), sort, value, stored: sort === 'empty' ? '' : sort === 'corrupt' ? corrupted(form, stored) : sort === 'truncated' ? truncated(form, stored) : stored }
  })
}
