import type { IndexedColumn } from '../../keyring/index-keys.ts'
import type { KekPurpose } from '../../keyring/keks.ts'
import type { Purpose } from '../../keyring/purpose-keys.ts'
import type { Pool } from '../../pg.ts'
import type { Tables } from '../../tables.ts'
import { UsageProblem } from '../io.ts'

/** The keys a command is about, as typed on the command line. */
export type Which =
  | { readonly level: 'root' }
  | { readonly level: 'data' }
  | { readonly level: 'caller' }
  | { readonly level: 'key-encryption'; readonly purposes: readonly KekPurpose[] }
  | { readonly level: 'index'; readonly columns: readonly IndexedColumn[] }
  | { readonly level: 'signing'; readonly purpose: Purpose }

const kekPurposes: readonly KekPurpose[] = ['data', 'index', 'purpose']

/** For the help of every command that takes one. */
export const whichHelp = `<which>:
  root                      the key service's own key: all key-encryption keys are wrapped anew
  kek, kek:<purpose>        the key-encryption keys; purpose is data, index or purpose
  data                      the keys of persons and retention classes
  index, index:<t>.<c>      the keys of the blind indexes; t and c are numbers of tables.ts, or with --app schema.table.column
  <purpose>                 a signing key: token-sign, audit-anchor, … (see redoubt keys status)
  caller                    the keys with which running processes sign for whom they work
`

function columnOf(text: string, tables: Tables | undefined): IndexedColumn {
  const numbers = /^([1-9]\d{0,4})\.([1-9]\d{0,4})$/.exec(text)
  if (numbers !== null) return { table: Number(numbers[1]), column: Number(numbers[2]) }
  const at = text.lastIndexOf('.')
  const table = tables?.tables[text.slice(0, at)]
  const column = table?.columns[text.slice(at + 1)]
  if (table === undefined || column?.kind !== 'index') throw new UsageProblem(`${text} is no blind index${tables === undefined ? ' (a name needs --app)' : ' of tables.ts'}`)
  return { table: table.id, column: column.id }
}

/**
 * What the word on the command line means.
 * @param tables to look names of columns up
 * @throws UsageProblem for a word that means nothing
 */
export async function whichOf(pool: Pick<Pool, 'query'>, word: string, tables: Tables | undefined): Promise<Which> {
  if (word === 'root' || word === 'data' || word === 'caller') return { level: word }
  if (word === 'kek') return { level: 'key-encryption', purposes: kekPurposes }
  if (word.startsWith('kek:')) {
    const purpose = kekPurposes.find((one) => one === word.slice(4))
    if (purpose === undefined) throw new UsageProblem(`${word}: the purpose is one of ${kekPurposes.join(', ')}`)
    return { level: 'key-encryption', purposes: [purpose] }
  }
  if (word.startsWith('index:')) return { level: 'index', columns: [columnOf(word.slice(6), tables)] }
  if (word === 'index') {
    const columns = await pool.query<IndexedColumn>({ text: 'select distinct i.table_id as table, i.column_id as column from keys.index_keys i order by 1, 2', values: [] })
    return { level: 'index', columns }
  }
  const purposes = await pool.query<{ readonly purpose: Purpose }>({ text: 'select distinct p.purpose from keys.purpose_keys p order by 1', values: [] })
  const known = purposes.find(({ purpose }) => purpose === word)
  if (known === undefined) throw new UsageProblem(`${word} is no key: root, kek, data, index, caller or ${purposes.map(({ purpose }) => purpose).join(', ')}`)
  return { level: 'signing', purpose: known.purpose }
}
