import { spawn } from 'node:child_process'
import { glob } from 'node:fs/promises'
import { join } from 'node:path'
import { inspect, parseArgs } from 'node:util'
import { startEmbedded } from '../src/cli/embedded.ts'
import { testFolder } from './support/database.ts'
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

async function testFiles(): Promise<readonly string[]> {
  const files = await Array.fromAsync(glob(['packages/*/test/**/*.test.ts', 'apps/*/test/**/*.test.ts'], { cwd: repository }))
  return files.filter((file) => positionals.length === 0 || positionals.some((word) => file.includes(word))).filter((file) => !values.without.some((word) => file.includes(word))).sort()
}

function runFiles(files: readonly string[], adminUrl: string): Promise<number> {
  const lcov = process.env['REDOUBT_TEST_LCOV'] ?? ''
  const coverage = [
    '--experimental-test-coverage',
    '--test-coverage-include=packages/*/src/**/*.ts',
    '--test-coverage-include=apps/*/src/**/*.ts',
  ]
  const child = spawn(
    process.execPath,
    [
      `--import=${new URL('./support/exit.ts', import.meta.url).href}`,
      '--test',
      '--test-concurrency=2',
      '--test-timeout=180000',
      '--test-reporter=spec',
      '--test-reporter-destination=stdout',
      `--test-reporter=${new URL('./support/skipped.ts', import.meta.url).href}`,
      '--test-reporter-destination=stdout',
      ...(values.coverage || lcov !== '' ? coverage : []),
      ...(lcov === '' ? [] : ['--test-reporter=lcov', `--test-reporter-destination=${lcov}`]),
      ...files,
    ],
    { cwd: repository, stdio: 'inherit', env: { ...process.env, REDOUBT_TEST_ADMIN_URL: adminUrl } },
  )
  // The terminal sends its signal to the child too; we outlive it, to stop the server.
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code) => resolve(code ?? 1))
  })
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
    return await runFiles(files, server.adminUrl)
  } finally {
    await embedded?.stop()
  }
}

process.exitCode = await main()
