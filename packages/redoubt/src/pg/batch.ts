import { serialize } from 'pg-protocol'
import { Refusal } from '../errors.ts'
import { Outgoing } from './outgoing.ts'
import { fieldsOf, rowOf, type DescribedField, type Fields } from './rows.ts'

/** A statement of the extended protocol; with a name it is prepared once per connection. */
export type Statement<R = Record<string, unknown>> = {
  readonly text: string
  readonly values: readonly unknown[]
  readonly name?: string
  /**
   * Takes well under a millisecond and waits for nobody, as a look-up by key does: it may share a connection with others
   * that are under way (pipeline.ts). What only reads is done again elsewhere when that connection ends.
   */
  readonly brief?: 'reads' | 'writes'
  /** Carries the row type; never set. */
  readonly rows?: R
}

export type Answer = { readonly command: string; readonly rows: readonly Record<string, unknown>[] }

/** The parts of the driver's Connection that a batch uses. */
export type Wire = {
  readonly stream: { write(bytes: Buffer): unknown }
  sendCopyFail(reason: string): void
}

/** What one connection knows: its prepared statements, and the batch that is on the wire. */
export type WireState = {
  readonly prepared: Map<string, { readonly text: string; fields: Fields | undefined }>
  active: Batch | undefined
}

/**
 * Several statements and one Sync: one round trip, and outside BEGIN one implicit transaction, so that setting the
 * caller and reading as the caller cannot come apart. Everything goes by the extended protocol: with the simple one
 * a stacked `; ROLLBACK` removed an audit entry.
 */
export class Batch {
  readonly #statements: readonly Statement<unknown>[]
  readonly #state: WireState
  readonly #answers: Answer[] = []
  #parsed: number[] = []
  #rows: Record<string, unknown>[] = []
  #fields: Fields | undefined
  #failure: unknown
  #written = false
  #settled: ((batch: Batch) => void) | undefined

  /** @param settled called once, when everything is answered or nothing more will come */
  constructor(statements: readonly Statement<unknown>[], state: WireState, settled: (batch: Batch) => void) {
    this.#statements = statements
    this.#state = state
    this.#settled = settled
  }

  /** What was answered so far; after a failure, everything before the statement that failed. */
  get answers(): readonly Answer[] {
    return this.#answers
  }

  /** What went wrong first, if anything did. */
  get failure(): unknown {
    return this.#failure
  }

  /** Whether it brings statements under a name: until the server has said that it knows them, nobody may use these behind it. */
  get introduces(): boolean {
    return this.#parsed.some((index) => this.#statements[index]?.name !== undefined)
  }

  /** The driver calls this when the connection is ours. One write: fourteen small ones in a writev took a third of the CPU. */
  submit(wire: Wire): null {
    this.#state.active = this
    if (!this.#written) wire.stream.write(this.bytes())
    this.#begin()
    return null
  }

  /** What goes out. Who takes it writes it before the driver learns of the batch: that is how one follows another without waiting. */
  bytes(): Buffer {
    const outgoing = new Outgoing()
    this.appendTo(outgoing)
    return outgoing.take()
  }

  /** The same behind what is to go out in one write with it. */
  appendTo(outgoing: Outgoing): void {
    this.#written = true
    const before = outgoing.length
    try {
      for (let index = 0; index < this.#statements.length; index++) this.#append(outgoing, index)
    } catch (error) {
      // A value that cannot be sent: nothing goes out but the Sync, whose answer ends the batch.
      this.#failure = error
      outgoing.rewind(before)
      this.#parsed = []
    }
    outgoing.add(serialize.sync())
  }

  #append(outgoing: Outgoing, index: number): void {
    const statement = this.#statements[index]
    if (statement === undefined) return
    const { name = '', text, values } = statement
    const known = name === '' ? undefined : this.#state.prepared.get(name)
    if (known !== undefined && known.text !== text) throw new TypeError(`statement: the name ${name} stands for another text`)
    // A name prepared earlier in this very batch is not yet in the map: parse under its name only once.
    const earlier = name !== '' && known === undefined && this.#statements.findIndex((other) => other.name === name) < index
    if (known === undefined && !earlier) {
      outgoing.add(serialize.parse({ text, name }))
      this.#parsed.push(index)
    }
    outgoing.bind(name, values)
    if (known?.fields === undefined) outgoing.add(serialize.describe({ type: 'P', name: '' }))
    outgoing.add(serialize.execute())
  }

  /** The fields of the next statement, where the connection knows them already. */
  #begin(): void {
    const name = this.#statements[this.#answers.length]?.name
    this.#fields = name === undefined ? undefined : this.#state.prepared.get(name)?.fields
    this.#rows = []
  }

  handleParseComplete(): void {
    const index = this.#parsed.shift()
    const statement = index === undefined ? undefined : this.#statements[index]
    if (statement?.name !== undefined) this.#state.prepared.set(statement.name, { text: statement.text, fields: undefined })
  }

  handleRowDescription(message: { readonly fields: readonly DescribedField[] }): void {
    this.#fields = fieldsOf(message.fields)
  }

  handleDataRow(message: { readonly fields: readonly (string | null)[] }): void {
    if (this.#failure !== undefined || this.#fields === undefined) return
    try {
      this.#rows.push(rowOf(this.#fields, message.fields))
    } catch (error) {
      this.#failure = error
    }
  }

  handleCommandComplete(message: { readonly text: string }): void {
    const name = this.#statements[this.#answers.length]?.name
    const known = name === undefined ? undefined : this.#state.prepared.get(name)
    if (known !== undefined) known.fields = this.#fields ?? []
    this.#answers.push({ command: message.text, rows: this.#rows })
    this.#begin()
  }

  handleEmptyQuery(): void {
    this.handleCommandComplete({ text: '' })
  }

  handlePortalSuspended(): void {
    this.#failure = new Refusal('database_error')
  }

  handleCopyInResponse(wire: Wire): void {
    wire.sendCopyFail('COPY is not accepted here')
  }

  handleCopyData(): void {
    this.#failure = new Refusal('statement_refused')
  }

  /**
   * The driver calls this for the first error of the batch and forgets the batch. After an ordinary error the server
   * skips the rest up to our Sync and then says that it is ready; only then may the next batch go out. After any other
   * (a lost connection, the last words of a server) nothing more comes.
   */
  handleError(error: unknown): void {
    this.#failure ??= error
    if ((error as { readonly severity?: unknown } | null)?.severity !== 'ERROR') this.handleReadyForQuery()
  }

  handleReadyForQuery(): void {
    if (this.#state.active === this) this.#state.active = undefined
    const settled = this.#settled
    this.#settled = undefined
    settled?.(this)
  }
}
