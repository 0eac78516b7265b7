import { createWriteStream } from 'node:fs'
import { glob } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import type { Duplex, Readable } from 'node:stream'
import { finished, pipeline } from 'node:stream/promises'
import { run } from 'node:test'
import { lcov as lcovReport, spec } from 'node:test/reporters'
import { inspect, parseArgs } from 'node:util'
import { startEmbedded } from '../src/cli/embedded.ts'
import { testFolder } from './support/database.ts'
import skipped from './support/skipped.ts'
import { connected, ensureTemplate, serverAt, sweepDead } from './support/template.ts'

const usage = `npm test -- [--coverage] [--without <word>]… [words]

Runs every *.test.ts of the workspaces, or those whose path contains one of the words and none after --without, on a real PostgreSQL:
the embedded one, or the one REDOUBT_TEST_ADMIN_URL names (connection string of a superuser).
Databases it makes there are called redoubt_test_* and redoubt_template_*, roles redoubt_test_*.
With REDOUBT_TEST_LCOV the coverage is also written there, for the gate in test/support/coverage.ts.
`

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { coverage: { type: 'boolean', default: false }, without: { type: 'string', multiple: true, default: [] }, help: { type: 'boolean', short: 'h', default: false } },
})
const repository = join(import.meta.dirname, '../../..')
const compileCache = join(testFolder, 'compiled')
/** Milliseconds for a test; a file may take twice as long. */
const patience = 180_000

async function testFiles(): Promise<readonly string[]> {
  const files = await Array.fromAsync(glob(['packages/*/test/**/*.test.ts', 'apps/*/test/**/*.test.ts'], { cwd: repository }))
  return files.filter((file) => positionals.length === 0 || positionals.some((word) => file.includes(word))).filter((file) => !values.without.some((word) => file.includes(word))).sort()
}

/** Begun first: one of these begun at the end would run alone while the other cores have nothing to do. */
const longest = ['apps/therapy/test/start.test.ts', 'apps/therapy/test/start.faults.test.ts', 'packages/redoubt/test/attacks/ask-someone-else.test.ts', 'apps/therapy/test/tour.test.ts', 'apps/therapy/test/import-example.test.ts', 'apps/therapy/test/own-table.test.ts', 'apps/therapy/test/cli.test.ts']

function byLength(files: readonly string[]): readonly string[] {
  return [...longest.filter((file) => files.includes(file)), ...files.filter((file) => !longest.includes(file))]
}

/** @returns whether all passed */
async function runFiles(files: readonly string[], adminUrl: string): Promise<boolean> {
  const lcov = process.env['REDOUBT_TEST_LCOV'] ?? ''
  const coverage = values.coverage || lcov !== ''
  // What is compiled once is taken from there by every process after it. Not where lines are counted: V8 then counts less exactly.
  const cache = coverage ? {} : { NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'] ?? compileCache }
  // The terminal sends its signal to the files too; we outlive them, to stop the server.
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => stop.abort())
  const stream = run({
    files: byLength(files).map((file) => join(repository, file)),
    cwd: repository,
    // One more than cores: many files wait for a server, a lock or a process.
    concurrency: availableParallelism() + 1,
    timeout: 2 * patience,
    execArgv: [`--import=${new URL('./support/exit.ts', import.meta.url).href}`, `--test-timeout=${patience}`],
    env: { ...process.env, ...cache, REDOUBT_TEST_ADMIN_URL: adminUrl },
    signal: stop.signal,
    coverage,
    ...(coverage ? { coverageIncludeGlobs: ['packages/*/src/**/*.ts', 'apps/*/src/**/*.ts'] } : {}),
  })
  let passed = false
  stream.on('test:summary', ({ file, success }) => {
    if (file === undefined) passed = success
  })
  const texts: readonly Readable[] = [stream.compose<Duplex>(new spec()), stream.compose<Duplex>(skipped)]
  const written = texts.map((text) => {
    text.pipe(process.stdout, { end: false })
    return finished(text, { writable: false })
  })
  if (lcov !== '') written.push(pipeline(stream.compose<Duplex>(lcovReport), createWriteStream(lcov)))
  await Promise.all(written)
  return passed
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(usage)
    return 0
  }
  const files = await testFiles()
  if (files.length === 0) {
    process.stderr.write(`No test file matches ${positionals.join(' ')}\n`)
    return 2
  }
  const given = process.env['REDOUBT_TEST_ADMIN_URL']
  const embedded = given === undefined || given === '' ? await startEmbedded({ folder: testFolder, insecureNoFsync: true }) : undefined
  try {
    const server = serverAt(embedded?.adminUrl ?? given ?? '')
    await connected(server.adminUrl, sweepDead)
    // A broken migration fails the files that need a database, with the same message; the others still run.
    await ensureTemplate(server, ['redoubt', 'therapy']).catch((error: unknown) => process.stderr.write(`The template database cannot be made: ${inspect(error)}\n`))
    return (await runFiles(files, server.adminUrl)) ? 0 : 1
  } finally {
    await embedded?.stop()
  }
}

process.exitCode = await main()
