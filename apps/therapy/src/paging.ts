import { Refusal } from 'redoubt/errors'
import { parseJson } from 'redoubt/http/json'
import { queryInteger } from 'redoubt/http/parse'
import { z } from 'zod'

/** The two members of every list's query. */
export const pageQuery = {
  limit: queryInteger(1, 100).optional(),
  // Room for the longest sort key: a name of 100 characters, each of three bytes, and an id.
  cursor: z.string().regex(/^[A-Za-z0-9_-]{1,600}$/).optional(),
}

export type PageQuery = { readonly limit?: number | undefined; readonly cursor?: string | undefined }

/** A page as it leaves: `next` is the cursor of the following page, null on the last. */
export function pageOf<S extends z.ZodType>(item: S): z.ZodObject<{ items: z.ZodArray<S>; next: z.ZodNullable<z.ZodString> }> {
  return z.object({ items: z.array(item), next: z.string().nullable() })
}

const defaultLimit = 25

/** Rows to select for a page: one more than it shows tells whether there is a next one. */
export function limitOf(query: PageQuery): number {
  return (query.limit ?? defaultLimit) + 1
}

/**
 * Keyset pagination: the cursor is the sort key of the last row shown, so that a page costs the same however deep it
 * is and no row is skipped or shown twice when others come in. Opaque to clients, and no secret: only ids and times.
 */
export function pageFrom<R, V>(rows: readonly R[], query: PageQuery, key: (row: R) => readonly string[], view: (row: R) => V): { readonly items: readonly V[]; readonly next: string | null } {
  const size = query.limit ?? defaultLimit
  const shown = rows.slice(0, size)
  const last = rows.length > size ? shown.at(-1) : undefined
  return { items: shown.map(view), next: last === undefined ? null : Buffer.from(JSON.stringify(key(last))).toString('base64url') }
}

/**
 * The sort key in a cursor. Read as strictly as a body: a text with NUL or a lone surrogate would fail in PostgreSQL.
 * @param shape what each part must be
 * @throws Refusal invalid_input for a cursor that was not made here
 */
export function cursorOf<S extends z.ZodType>(query: PageQuery, shape: S): z.output<S> | undefined {
  if (query.cursor === undefined) return undefined
  try {
    return shape.parse(parseJson(Buffer.from(query.cursor, 'base64url')))
  } catch {
    throw new Refusal('invalid_input', { fields: [{ field: 'cursor', rule: 'form' }] })
  }
}
