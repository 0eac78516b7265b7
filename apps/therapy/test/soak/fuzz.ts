import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import { openClinic, type Clinic } from '../support/clinic.ts'

/** Where `.ci/emulators` puts Schemathesis, the OpenAPI fuzzer. */
const program = join(process.env['REDOUBT_EMULATORS'] ?? join(import.meta.dirname, '../../../../.redoubt/emulators'), 'schemathesis/bin/schemathesis')
/** Ends the session that the fuzzer works with; what comes after it would be nothing but 401. */
const endings = ['/api/auth/logout', '/api/auth/logout-all']

/** Runs the fuzzer against the whole document. Its checks: no 500, no status, header or body that is not documented, no bad input taken. */
async function fuzz(address: string, document: string, token: string | undefined, seconds: number): Promise<{ readonly code: number | null; readonly output: string }> {
  const child = spawn(
    program,
    [
      'run', document, '--url', address, '--phases', 'coverage,fuzzing', '--max-time', String(seconds), '--workers', '1', '--seed', '1', '--no-color', '--continue-on-failure',
      '--checks', 'not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,negative_data_rejection',
      '--suppress-health-check', 'all', '--warnings', 'off', ...endings.flatMap((path) => ['--exclude-path', path]), ...(token === undefined ? [] : ['--header', `Authorization: Bearer ${token}`]),
    ],
    // It keeps what it found in a folder where it runs.
    { cwd: dirname(document), stdio: ['ignore', 'pipe', 'pipe'], env: { PATH: process.env['PATH'] ?? '', HOME: tmpdir(), PYTHONUNBUFFERED: '1' } },
  )
  const chunks: Buffer[] = []
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  const code = await new Promise<number | null>((resolve, reject) => child.once('error', reject).once('exit', resolve))
  return { code, output: Buffer.concat(chunks).toString('utf8') }
}

/** What no answer to a stranger may hold, however it was asked. */
function planted(clinic: Clinic, secrets: readonly string[]): () => readonly string[] {
  const failed = clinic.events.filter((event) => event.type === 'http.failed')
  return () => [...failed.map(({ error }) => `500: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`), ...secrets.filter((secret) => JSON.stringify(clinic.events).includes(secret)).map((secret) => `an event carries ${secret}`)]
}

/**
 * OpenAPI fuzzing of every route, as nobody, as a patient and as a therapist: no 500, no status and no form of an answer
 * that is not documented, no input taken that the schema refuses, nothing of a person in an event.
 */
export const soak: Soak = async ({ short, print }) => {
  if (!existsSync(program)) throw new Error('Schemathesis is not installed: bash .ci/emulators')
  const clinic = await openClinic()
  const folder = await mkdtemp(join(tmpdir(), 'fuzz-'))
  try {
    const therapist = await clinic.therapist()
    const patient = await clinic.patient({ first: 'Quirin', last: 'Zwetschkenbaum' })
    await clinic.care(patient, therapist)
    await clinic.slot(therapist, { patient })
    const document = join(folder, 'openapi.json')
    await writeFile(document, (await clinic.send()('GET', '/openapi.json')).text)
    const problems = planted(clinic, ['Zwetschkenbaum', patient.password])
    for (const [who, token] of [['nobody', undefined], ['a patient', patient.token], ['a therapist', therapist.token]] as const) {
      const { code, output } = await fuzz(clinic.address, document, token, short ? 25 : 300)
      print(`as ${who}: ${/\d+ generated[^\n]*|[0-9]+ test cases?[^\n]*/.exec(output)?.[0] ?? output.split('\n').at(-2) ?? ''}`)
      assert.equal(code, 0, output.slice(-8_000))
      if (who === 'nobody') assert.ok(!output.includes('Zwetschkenbaum'))
    }
    assert.deepEqual(problems(), [])
  } finally {
    await clinic.close()
    await clinic.database.drop()
    await rm(folder, { recursive: true })
  }
}
