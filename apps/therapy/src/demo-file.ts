import { readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { StartRefused } from './process.ts'

const schema = z.object({
  state: z.enum(['begun', 'done']),
  accounts: z.array(z.object({ name: z.string(), role: z.enum(['therapist', 'patient']), email: z.string(), password: z.string() })).readonly(),
}).readonly()

/** What is kept between starts, owner-only: it holds the passwords of invented people. `begun`: loading them was interrupted. */
export type DemoFile = z.infer<typeof schema>

export function demoPathIn(home: string): string {
  return join(home, 'demo.json')
}

/**
 * @returns undefined when there is none
 * @throws StartRefused when it is not what was written; the system's own error when it cannot be read
 */
export async function readDemoFile(home: string): Promise<DemoFile | undefined> {
  const path = demoPathIn(home)
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined
    throw error
  })
  if (text === undefined) return undefined
  const parsed = schema.safeParse(jsonOf(text))
  // Neither parser's message is passed on: it may quote the file, which holds passwords.
  if (!parsed.success) throw new StartRefused(`${path} is damaged: put it back as it was, remove it (the data stays, the passwords are lost), or begin anew with npm start -- --reset`)
  return parsed.data
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

export async function writeDemoFile(home: string, file: DemoFile): Promise<void> {
  const path = demoPathIn(home)
  await writeFile(`${path}.new`, `${JSON.stringify(file, null, 2)}\n`, { mode: 0o600 })
  await rename(`${path}.new`, path)
}
