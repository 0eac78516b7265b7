import assert from 'node:assert/strict'
import { existsSync, globSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { commands, dispatch } from '../src/cli.ts'
import { refusals } from '../src/errors.ts'
import { lines } from './support/architecture/order.ts'

const repository = join(import.meta.dirname, '../../..')
const read = (path: string): string => readFileSync(join(repository, path), 'utf8')
const documents = ['README.md', 'ARCHITECTURE.md', 'SECURITY.md', 'CHANGELOG.md', ...globSync('docs/**/*.md', { cwd: repository })]

/** Cells of the rows of a table, header and rule left out. */
function rowsOf(markdown: string): readonly (readonly string[])[] {
  return [...markdown.matchAll(/^\|(.+)\|$/gm)].map((row) => (row[1] ?? '').split('|').map((cell) => cell.trim())).filter(([first]) => first?.startsWith('`'))
}

/** Anchors that headings make: small letters, dashes for spaces, no punctuation. */
function anchorsOf(markdown: string): ReadonlySet<string> {
  const text = markdown.replaceAll(/^```[\s\S]*?^```/gm, '')
  return new Set([...text.matchAll(/^#+ (.+)$/gm)].map((heading) => (heading[1] ?? '').toLowerCase().replaceAll(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-')))
}

/** Relative links that lead nowhere. */
function brokenLinks(path: string, markdown: string): readonly string[] {
  const text = markdown.replaceAll(/^```[\s\S]*?^```/gm, '').replaceAll(/`[^`\n]*`/g, '')
  return [...text.matchAll(/\[[^\]]*\]\(([^)\s]+)\)/g)].flatMap((link) => {
    const [file = '', anchor] = (link[1] ?? '').split('#')
    if (/^[a-z]+:/.test(file)) return []
    const target = file === '' ? path : normalize(join(dirname(path), file))
    if (!existsSync(join(repository, target))) return [`${path}: ${link[1] ?? ''}`]
    return anchor === undefined || anchorsOf(file === '' ? markdown : read(target)).has(anchor) ? [] : [`${path}: ${link[1] ?? ''}`]
  })
}

test('docs/errors.md is the table of refusals', () => {
  const told = rowsOf(read('docs/errors.md')).map(([code, status, title]) => [code, Number(status), title])
  assert.deepEqual(told, Object.entries(refusals).map(([code, { status, title }]) => [`\`${code}\``, status, title]))
})

test('every refusal in docs/errors.md says what to do', () => {
  for (const [code, , , todo] of rowsOf(read('docs/errors.md'))) assert.ok((todo?.length ?? 0) > 10, code)
})

test('every link in the documents leads somewhere', () => {
  const broken = documents.flatMap((path) => brokenLinks(path, read(path)))
  assert.deepEqual(broken, [])
  assert.deepEqual(brokenLinks('README.md', '[a](docs/none.md) [b](docs/errors.md#none) [c](#none) `[d](none)`'), ['README.md: docs/none.md', 'README.md: docs/errors.md#none', 'README.md: #none'])
})

test('each document is one link away from the README', () => {
  const readme = read('README.md')
  assert.deepEqual(globSync('docs/**/*.md', { cwd: repository }).filter((path) => !readme.includes(`](${path})`)), [])
})

/** Long lines of prose that stand in a text more than once: what a merge that took both sides leaves behind. */
function doubles(markdown: string): readonly string[] {
  const long = markdown.replaceAll(/^ *```[\s\S]*?^ *```/gm, '').split('\n').map((line) => line.trim()).filter((line) => line.length >= 40 && !line.startsWith('|---'))
  return long.filter((line, index) => long.indexOf(line) < index)
}

test('no document says a line twice', () => {
  assert.deepEqual(documents.flatMap((path) => doubles(read(path)).map((line) => `${path}: ${line}`)), [])
  const line = 'a sentence that is long enough to be one of its own'
  assert.deepEqual(doubles(`${line}\n\n- other\n  ${line}\n`), [line])
})

test('files that the documents name in code marks exist', () => {
  const missing = documents.filter((path) => path !== 'CHANGELOG.md').flatMap((path) =>
    [...read(path).matchAll(/`((?:packages|apps|docs|bench|\.ci)\/[\w./-]+)`/g)].map((match) => match[1] ?? '').filter((file) => !existsSync(join(repository, file))).map((file) => `${path}: ${file}`))
  assert.deepEqual(missing, [])
})

test('commands that the documents name exist', () => {
  const { scripts } = JSON.parse(read('package.json')) as { readonly scripts: Readonly<Record<string, string>> }
  const known = commands.map(({ name }) => name)
  assert.equal(new Set(known).size, known.length, 'a command is listed twice')
  // formats.md puts labels of key derivations in code marks, which also begin with the project's name.
  const wrong = documents.filter((path) => path !== 'docs/formats.md').flatMap((path) => {
    const text = read(path)
    const runs = [...text.matchAll(/\bnpm run (?:--silent )?([a-z:-]+)/g)].map((match) => match[1] ?? '').filter((name) => !(name in scripts))
    const told = [...text.matchAll(/(?:`redoubt|npm run (?:--silent )?redoubt --) ([a-z]+(?: [a-z]+)?)/g)].map((match) => match[1] ?? '').filter((words) => !known.some((name) => words === name || words.startsWith(`${name} `) || name.startsWith(`${words} `)))
    return [...runs, ...told].map((name) => `${path}: ${name}`)
  })
  assert.deepEqual(wrong, [])
})

/** What `redoubt <words> --help` prints. */
async function helpOf(words: readonly string[]): Promise<string> {
  let said = ''
  const hear = (text: string): void => void (said += text)
  await dispatch([...words, '--help'], { env: {}, cwd: repository, out: hear, err: hear })
  return said
}

/** Command lines in the documents: the words and the options, up to the end of the code mark, the line, a pipe or a comment. */
function commandLines(text: string): readonly (readonly string[])[] {
  return [...text.matchAll(/(?:`redoubt|npm run (?:--silent )?redoubt --) ([a-z][^`\n|#>]*)/g)].map((match) => (match[1] ?? '').trim().split(/\s+/))
}

test('every command line in the documents is one that the command’s own help knows, with its options', async () => {
  const wrong: string[] = []
  for (const path of documents.filter((name) => name !== 'docs/formats.md')) {
    for (const line of commandLines(read(path))) {
      const [first = '', second = ''] = line
      const whole = commands.some(({ name }) => name === `${first} ${second}`)
      const own = await helpOf([first])
      const below = /^[a-z-]+$/.test(second) && (whole || new RegExp(`(?:redoubt ${first} |^ +)${second}\\b`, 'm').test(own))
      if (!below && /^[a-z-]+$/.test(second)) wrong.push(`${path}: redoubt ${first} ${second}`)
      const help = below ? `${own}\n${await helpOf([first, second])}` : own
      for (const option of line.filter((word) => word.startsWith('--')).map((word) => word.replace(/[=,.;:)].*$/, ''))) {
        if (!help.includes(option)) wrong.push(`${path}: redoubt ${first} ${second} ${option}`)
      }
    }
  }
  assert.deepEqual([...new Set(wrong)], [])
  assert.deepEqual(commandLines('`redoubt keys rotate data --subject <id>` and npm run --silent redoubt -- audit verify | cat').map((words) => words.slice(0, 4)), [['keys', 'rotate', 'data', '--subject'], ['audit', 'verify']])
})

test('the code map names every file of the library that has a line', () => {
  const map = read('ARCHITECTURE.md')
  const present = lines.flatMap(([, heads]) => heads).filter((head) => existsSync(join(repository, `packages/redoubt/src/${head}.ts`)))
  assert.deepEqual(present.filter((head) => !new RegExp(`^\\|.*\`${head}\``, 'm').test(map)), [])
  const inMap = [...map.matchAll(/^\| (\w+) \| `/gm)].map((row) => row[1])
  assert.deepEqual(inMap, lines.map(([line]) => line), 'one row for each line of the order, in that order')
})

test('the runbook of roles names the roles, and the two command lines stand in the README', () => {
  const { length } = rowsOf(read('docs/runbooks/roles.md'))
  assert.equal(length, 9)
  for (const line of [/^npm ci && npm start$/m, /^npm ci && npm test$/m]) assert.match(read('README.md'), line)
})
