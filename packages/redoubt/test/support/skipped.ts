import type { TestEvent } from 'node:test/reporters'

/** A reporter that says at the end what was not tested, and why: a skip that nobody reads is a hole that nobody sees. */
export default async function* skipped(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const lines: string[] = []
  for await (const event of events) {
    if (event.type !== 'test:pass' || event.data.skip === undefined) continue
    const reason = typeof event.data.skip === 'string' ? event.data.skip : 'no reason given'
    lines.push(`  ${event.data.file ?? ''} ${event.data.name}: ${reason}`)
  }
  if (lines.length > 0) yield `\nSkipped:\n${lines.join('\n')}\n`
}
