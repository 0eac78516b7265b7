import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmod, cp, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { promisify } from 'node:util'
import { removeEmbedded } from 'redoubt/cli/embedded'
import { openStarts, type Running } from './starts.ts'

export const repository = join(import.meta.dirname, '../../../..')

/** A walk-through in the documents, done in a copy of the repository as it stands there. */
export type Walk = {
  readonly clone: string
  readonly port: number
  /** Codes of a step in this language, as somebody would copy them. */
  codes(step: string, language: string): readonly [string, ...string[]]
  /** What a step says is seen, with the number of the migration put in. */
  seen(step: string): string
  /** Writes the migration that the step names, with the code of the step in it. */
  migration(step: string): Promise<void>
  /** Edits a file of the app. */
  edit(file: string, from: string | RegExp, to: string): Promise<void>
  write(file: string, text: string): Promise<void>
  /** `npm start` in the copy. */
  begin(): Running
  /** Commands in a shell of the copy, one after the other as long as they end well; blanks that align columns are one. */
  shell(commands: string): Promise<string>
}

/**
 * A copy of the app with a folder and a port of its own; what it leaves is removed at the end of the file.
 * @param steps the text of each step by its number; N and M in it are the next two numbers of a migration
 */
export async function openWalk(steps: Readonly<Record<string, string>>): Promise<Walk> {
  const clone = await mkdtemp(join(tmpdir(), 'therapy-walk-'))
  await chmod(clone, 0o711)
  await cp(join(repository, 'apps'), join(clone, 'apps'), { recursive: true, filter: (path) => !path.includes('node_modules') })
  for (const name of ['package.json', 'tsconfig.json']) await cp(join(repository, name), join(clone, name))
  for (const name of ['node_modules', 'packages']) await symlink(join(repository, name), join(clone, name))
  const home = join(clone, '.redoubt')
  const { start, port } = await openStarts()
  after(async () => {
    await removeEmbedded(join(home, 'postgres'))
    await rm(clone, { recursive: true, force: true })
  })
  // What is compiled of the copy goes with it: no other run has a file of this path.
  const { DATABASE_URL: _, REDOUBT_HOME: __, NODE_COMPILE_CACHE: shared, ...rest } = process.env
  const compiled = shared === undefined ? {} : { NODE_COMPILE_CACHE: join(clone, 'compiled') }
  const folder = join(clone, 'apps/therapy/sql')
  const next = Math.max(...(await readdir(folder)).map((file) => Number(/^\d{6}/.exec(file)?.[0] ?? 0))) + 1
  const numbered = (text: string): string => text.replace(/N$/, String(next)).replace(/M$/, String(next + 1))
  const codes: Walk['codes'] = (step, language) => {
    // In a list the code is indented as far as the mark that ends it.
    const [first, ...more] = [...(steps[step] ?? '').matchAll(new RegExp(`\`\`\`${language}\\n([^]*?)^( *)\`\`\``, 'gm'))].map(([, text = '', indent = '']) => text.replaceAll(new RegExp(`^${indent}`, 'gm'), ''))
    assert.ok(first !== undefined, `step ${step} has code in ${language === '' ? 'the shell' : language}`)
    return [first, ...more]
  }
  return {
    clone, port, codes,
    seen(step) {
      const [, text] = /Seen: `([^`]+)`/.exec(steps[step] ?? '') ?? []
      assert.ok(text !== undefined, `step ${step} says what is seen`)
      return numbered(text.replaceAll(/ +/g, ' '))
    },
    async migration(step) {
      const [name = '', letter = ''] = /00000([NM])_\w+\.sql/.exec(steps[step] ?? '') ?? []
      await writeFile(join(folder, name.replace(`00000${letter}`, numbered(letter).padStart(6, '0'))), codes(step, 'sql')[0])
    },
    async edit(file, from, to) {
      const path = join(clone, 'apps/therapy/src', file)
      const text = await readFile(path, 'utf8')
      const edited = text.replace(from, to)
      assert.notEqual(edited, text, `${file} has ${String(from)}`)
      await writeFile(path, edited)
    },
    write: (file, text) => writeFile(join(clone, 'apps/therapy/src', file), text, { flag: 'wx' }),
    begin: () => start([], { command: [process.execPath, join(clone, 'apps/therapy/src/start.ts')], env: { ...compiled, REDOUBT_HOME: home } }),
    async shell(commands) {
      const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', commands], { cwd: clone, env: { ...rest, ...compiled }, encoding: 'utf8' })
      return stdout.replaceAll(/ +/g, ' ')
    },
  }
}
