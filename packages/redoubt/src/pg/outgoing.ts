import { createRequire } from 'node:module'

const { prepareValue } = createRequire(import.meta.url)('pg/lib/utils.js') as { prepareValue(value: unknown): unknown }

/** Bytes kept from one write to the next; a larger message's memory is let go with it. */
const kept = 16_384
/** Of an UTF-16 unit in UTF-8, at most. */
const mostBytes = 3

/**
 * Messages to the server, written one behind another into one piece of memory: made each by itself and joined, those of
 * one look-up were ten pieces, and took three times as long.
 */
export class Outgoing {
  #memory = Buffer.allocUnsafe(1024)
  #at = 0

  /** Bytes so far. */
  get length(): number {
    return this.#at
  }

  /** Forgets what stands behind the first `length` bytes. */
  rewind(length: number): void {
    this.#at = Math.min(length, this.#at)
  }

  /** Everything so far, as bytes that nobody else writes to; the next message begins anew. */
  take(): Buffer {
    const bytes = Buffer.from(this.#memory.subarray(0, this.#at))
    this.#at = 0
    if (this.#memory.length > kept) this.#memory = Buffer.allocUnsafe(1024)
    return bytes
  }

  /** A message that is there already. */
  add(message: Uint8Array): void {
    this.#room(message.length)
    this.#memory.set(message, this.#at)
    this.#at += message.length
  }

  /**
   * Bind of the unnamed portal (PostgreSQL 15, 55.7): bytes as they are, everything else as the text the driver makes of it.
   * @throws what making a text of a value throws; `rewind` then forgets the beginning
   */
  bind(statement: string, values: readonly unknown[]): void {
    const { length: count } = values
    this.#room(16 + statement.length * mostBytes + 2 * count)
    const from = this.#at
    this.#memory[from] = 0x42
    this.#memory[from + 5] = 0
    this.#at = from + 6
    if (statement !== '') this.#at += this.#memory.write(statement, this.#at)
    this.#memory[this.#at++] = 0
    this.#number16(count)
    const formats = this.#at
    while (this.#at < formats + 2 * count) this.#memory[this.#at++] = 0
    this.#number16(count)
    for (let i = 0; i < count; i++) {
      const value = values[i]
      const sent = typeof value === 'string' || value === null ? value : prepareValue(value)
      if (sent === null || sent === undefined) this.#number32(-1)
      else if (Buffer.isBuffer(sent)) {
        this.#memory[formats + 2 * i + 1] = 1
        this.#number32(sent.length)
        this.add(sent)
      } else this.#text(sent as string)
    }
    // The answer as text, all columns of it.
    this.#number16(1)
    this.#number16(0)
    this.#set32(this.#at - from - 1, from + 1)
  }

  #text(text: string): void {
    this.#room(4 + (text.length < 1024 ? text.length * mostBytes : Buffer.byteLength(text)))
    const bytes = this.#memory.write(text, this.#at + 4)
    this.#set32(bytes, this.#at)
    this.#at += 4 + bytes
  }

  #number16(value: number): void {
    this.#room(2)
    this.#memory[this.#at++] = value >>> 8
    this.#memory[this.#at++] = value
  }

  #number32(value: number): void {
    this.#room(4)
    this.#set32(value, this.#at)
    this.#at += 4
  }

  #set32(value: number, at: number): void {
    this.#memory[at] = value >>> 24
    this.#memory[at + 1] = value >>> 16
    this.#memory[at + 2] = value >>> 8
    this.#memory[at + 3] = value
  }

  #room(bytes: number): void {
    if (this.#memory.length - this.#at >= bytes) return
    const larger = Buffer.allocUnsafe(2 * this.#memory.length + bytes)
    this.#memory.copy(larger, 0, 0, this.#at)
    this.#memory = larger
  }
}
