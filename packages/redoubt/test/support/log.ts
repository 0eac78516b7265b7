import { openLog, type Level, type Log, type Sink } from '../../src/log.ts'
import { blindIndex, defineTables, plain, sealed } from '../../src/tables.ts'

/** Columns whose names the log hides. */
export const tables = defineTables({
  service: 'shop',
  retention: { record: { days: 1, basis: 'test' } },
  tables: {
    'shop.people': {
      id: 1,
      about: 'people',
      rowId: 'id',
      subject: 'id',
      tenant: null,
      keep: 'record',
      columns: {
        id: plain('uuid', 'INT'),
        time_zone: plain('text', 'INT'),
        nick_name: plain('text', 'PII'),
        login_hash: plain('text', 'CRED'),
        first_name_enc: sealed(1, 'PII-E'),
        reason_enc: sealed(2, 'SCH'),
        phone_enc: sealed(3, 'PII-E'),
        phone_bidx: blindIndex(4, 'phone_enc'),
      },
    },
  },
})

/** A sink that keeps its lines. */
export function memory(): Sink & { readonly lines: () => readonly Record<string, unknown>[]; readonly text: () => string } {
  let text = ''
  return {
    write: (line) => void (text += line),
    flush: () => undefined,
    close: () => undefined,
    lost: 0,
    text: () => text,
    lines: () => text.split('\n').filter((line) => line !== '').map((line) => JSON.parse(line) as Record<string, unknown>),
  }
}

/** A log of that service, and its sink. */
export function open(level: Level = 'trace'): { readonly log: Log; readonly sink: ReturnType<typeof memory> } {
  const sink = memory()
  return { log: openLog({ service: 'shop', version: '1.2.3', tables, level, sink, atEnd: false }), sink }
}
