/**
 * Arrays in PostgreSQL's binary form (array_recv): one dimension, lower bound 1. A page of values travels as a few
 * parameters that the server reads without parsing text; as text, each byte costs four and a scan on both sides.
 */
export const BYTEA = 17
const TEXT = 25
export const UUID = 2950
/** Bytes before the first element. */
export const HEAD = 20

/**
 * Writes what stands before the elements. It may always say that there are nulls: the server looks for itself.
 * @returns the length of an array without elements, null for any other
 */
export function arrayHead(out: Buffer, oid: number, count: number): number | null {
  out.writeInt32BE(count === 0 ? 0 : 1, 0)
  out.writeInt32BE(count === 0 ? 0 : 1, 4)
  out.writeInt32BE(oid, 8)
  if (count === 0) return 12
  out.writeInt32BE(count, 12)
  out.writeInt32BE(1, 16)
  return null
}

function begin(size: number, oid: number, count: number): Buffer {
  const out = Buffer.allocUnsafe(size)
  const empty = arrayHead(out, oid, count)
  return empty === null ? out : out.subarray(0, empty)
}

/** The elements of both arrays in one. @param rows how many elements `first` has */
export function joinedArrays(first: Uint8Array, rows: number, second: Buffer): Buffer {
  const buffer = Buffer.from(first.buffer, first.byteOffset, first.byteLength)
  if (second.length <= HEAD) return buffer
  if (rows === 0) return second
  const out = Buffer.concat([buffer, second.subarray(HEAD)])
  out.writeInt32BE(rows + second.readInt32BE(12), 12)
  return out
}

/** A bytea[] parameter. */
export function byteaArray(values: readonly (Buffer | null)[]): Buffer {
  return variable(values, BYTEA)
}

/** A text[] parameter of bytes that are UTF-8 already. */
export function textArray(values: readonly string[]): Buffer {
  return variable(values.map((value) => Buffer.from(value, 'utf8')), TEXT)
}

function variable(values: readonly (Buffer | null)[], oid: number): Buffer {
  let size = HEAD
  for (const value of values) size += 4 + (value?.length ?? 0)
  const out = begin(size, oid, values.length)
  let at = HEAD
  for (const value of values) {
    if (value === null) {
      out.writeInt32BE(-1, at)
      at += 4
      continue
    }
    const { length } = value
    out[at] = length >>> 24
    out[at + 1] = (length >>> 16) & 0xff
    out[at + 2] = (length >>> 8) & 0xff
    out[at + 3] = length & 0xff
    out.set(value, at + 4)
    at += 4 + length
  }
  return out
}

/** A uuid[] parameter, of 16 bytes each. */
export function uuidArray(ids: readonly Buffer[]): Buffer {
  const out = begin(HEAD + ids.length * 20, UUID, ids.length)
  let at = HEAD
  for (const id of ids) {
    out[at] = 0
    out[at + 1] = 0
    out[at + 2] = 0
    out[at + 3] = 16
    out.set(id, at + 4)
    at += 20
  }
  return out
}
