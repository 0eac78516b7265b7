import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { setTimeout as pause } from 'node:timers/promises'
import type { Soak } from '../../../../packages/redoubt/test/soak.ts'
import { testDatabase } from '../../../../packages/redoubt/test/support/database.ts'
import { startFaultProxy, type Fault, type FaultProxy } from '../../../../packages/redoubt/test/support/fault-proxy.ts'
import { startVault } from '../../../../packages/redoubt/test/support/vault.ts'
import { openClinic, type Answer, type Clinic, type Instance, type Someone } from '../support/clinic.ts'

const pairs = 8
const well = 'keys ok, key-service ok'
/** One call of the key service, all its attempts: 8 s; the rest is for a machine that is busy. */
const mostMilliseconds = 12_000

type Couple = { readonly patient: Someone; readonly therapist: Someone }
type Figures = { reads: number; writes: number; slowest: number; readonly problems: string[] }

/** How often the key-encryption key of data was asked for; what signs and what indexes has others, opened by timers too. */
const decrypts = (proxy: FaultProxy): number => proxy.requests.filter(({ path, body }) => path.startsWith('/v1/transit/decrypt/') && contextOf(body).includes('data')).length

function contextOf(body: string): string {
  const { context } = JSON.parse(body) as { readonly context: string }
  return Buffer.from(context, 'base64').toString('latin1')
}

/** Reads and writes of sealed data by people on both sides of care, until it is told to stop. */
function startLoad(address: string, couples: readonly Couple[]): { readonly figures: Figures; stop(): Promise<void> } {
  const figures: Figures = { reads: 0, writes: 0, slowest: 0, problems: [] }
  let running = true
  async function ask(kind: 'reads' | 'writes', token: string, method: string, path: string, wanted: number, body?: unknown): Promise<void> {
    const since = performance.now()
    const response = await fetch(address + path, { method, headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { 'content-type': 'application/json' }) }, ...(body === undefined ? {} : { body: JSON.stringify(body) }) })
    const text = await response.text()
    figures[kind]++
    figures.slowest = Math.max(figures.slowest, performance.now() - since)
    if (response.status !== wanted) figures.problems.push(`${method} ${path}: ${response.status} ${text.slice(0, 300)}`)
    else if (kind === 'reads' && !text.includes('Sommer')) figures.problems.push(`${method} ${path}: a wrong answer`)
  }
  const working = couples.flatMap(({ patient, therapist }, n) => [patient, therapist].map(async (who) => {
    for (let turn = 0; running; turn++) {
      try {
        await ask('reads', who.token, 'GET', `/api/patients/${patient.id}`, 200)
        if (who === therapist && turn % 4 === n % 4) await ask('writes', who.token, 'POST', `/api/patients/${patient.id}/records`, 201, { kind: 'soap_note', text: `turn ${turn}` })
      } catch (error) {
        figures.problems.push(String(error))
      }
      await pause(10)
    }
  }))
  return {
    figures,
    async stop() {
      running = false
      await Promise.all(working)
    },
  }
}

/** What the probe says of the keys; other checks may time out on a machine that is busy. */
async function ready(instance: { readonly address: string }): Promise<string> {
  const response = await fetch(`${instance.address}/health/ready`)
  const { checks } = (await response.json()) as { readonly checks: Readonly<Record<string, string>> }
  return `keys ${checks['keys'] ?? ''}, key-service ${checks['key-service'] ?? ''}`
}

async function until(what: string, holds: () => Promise<boolean>, milliseconds: number): Promise<number> {
  const since = performance.now()
  while (!(await holds())) {
    if (performance.now() - since > milliseconds) throw new Error(`${what}: not within ${milliseconds} ms`)
    await pause(200)
  }
  return performance.now() - since
}

/** A cold read while the service is away: how it was refused, and after how long. */
async function coldRead(instance: Instance, { patient }: Couple): Promise<{ readonly answer: Answer; readonly milliseconds: number }> {
  const since = performance.now()
  const answer = await instance.send(patient.token)('GET', `/api/patients/${patient.id}`)
  return { answer, milliseconds: performance.now() - since }
}

/** Some of each kind that a person and a patient of theirs can have. */
async function people(clinic: Clinic): Promise<readonly Couple[]> {
  return Promise.all(Array.from({ length: pairs }, async () => {
    const [patient, therapist] = [await clinic.patient(), await clinic.therapist()]
    await clinic.care(patient, therapist)
    return { patient, therapist }
  }))
}

/** 3,000 requests at once, ten on each of 300 connections without waiting for an answer; gives the statuses. */
async function burst(address: string, { patient }: Couple): Promise<ReadonlyMap<number, number>> {
  const { hostname, port } = new URL(address)
  const [connections, each] = [300, 10]
  const request = `GET /api/patients/${patient.id} HTTP/1.1\r\nhost: ${hostname}\r\nauthorization: Bearer ${patient.token}\r\n\r\n`
  const statuses = new Map<number, number>()
  await Promise.all(Array.from({ length: connections }, () => new Promise<void>((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(request.repeat(each)))
    let text = ''
    socket.setEncoding('utf8').on('data', (part: string) => {
      text += part
      const seen = [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)]
      if (seen.length < each) return
      for (const [, status] of seen) statuses.set(Number(status), (statuses.get(Number(status)) ?? 0) + 1)
      socket.destroy()
      resolve()
    })
    socket.once('error', reject).once('close', () => reject(new Error('a connection ended before all its answers')))
  })))
  return statuses
}

/**
 * The key service is away for five minutes under load: whoever has the key-encryption keys in memory reads and writes
 * on, also when data keys run out and are opened again; who has not is refused in bounded time; probes say so; it ends
 * by itself when the service is back. Then 3,000 cold requests at once.
 */
export const soak: Soak = async ({ short, print }) => {
  const outage = short ? 15_000 : 300_000
  const dataKey = short ? 1_000 : 60_000
  const vault = await startVault()
  const proxy = await startFaultProxy(vault.origin)
  vault.transit('POST', 'keys/root', { derived: true })
  vault.lease(86_400, 864_000)
  const database = await testDatabase()
  let shift = 0
  let load: ReturnType<typeof startLoad> | undefined
  const clock = (): number => performance.now() + shift
  const clinic = await openClinic({
    database,
    settings: {
      kms: 'vault:transit/root', keyService: { vault: { address: proxy.origin, signIn: { method: 'token', token: vault.token({}) } } },
      openedKeys: { lifetimes: { dataKey } },
    },
  })
  try {
    const couples = await people(clinic)
    const [first] = couples
    assert.ok(first !== undefined)
    const cold = await clinic.another({ openedKeys: { lifetimes: { dataKey }, clock } })
    assert.equal((await coldRead(cold, first)).answer.status, 200)
    assert.deepEqual([await ready(clinic), await ready(cold)], [well, well])

    load = startLoad(clinic.address, couples)
    await pause(1_000)
    const began = performance.now()
    const faults: readonly Fault[] = [{ kind: 'reset' }, { kind: 'hang' }, { kind: 'answer', status: 503, body: '{"errors":["Vault is sealed"]}' }]
    const before = { ...load.figures }
    proxy.fault(faults[0] ?? null)
    // For this instance the hour is over: its keys are gone from memory.
    shift += 61 * 60_000
    const refused = { count: 0, slowest: 0 }
    // The one stays ready on what it has in memory, the other is not ready.
    const told = until('/health/ready says it', async () => (await ready(clinic)) === 'keys ok, key-service degraded' && (await ready(cold)) === 'keys failed, key-service degraded', outage + 60_000)
    let unready: number | undefined
    void told.then((milliseconds) => void (unready = milliseconds), () => undefined)
    for (let round = 0; performance.now() - began < outage || (unready === undefined && performance.now() - began < outage + 60_000); round++) {
      proxy.fault(faults[round % faults.length] ?? null)
      const { answer, milliseconds } = await coldRead(cold, couples[round % couples.length] ?? first)
      assert.equal(answer.status, 503, answer.text)
      assert.equal(answer.body['code'], 'key_service_unavailable', answer.text)
      assert.ok(Number(answer.headers.get('retry-after')) >= 1)
      assert.ok(milliseconds < mostMilliseconds, `a cold read was refused after ${milliseconds} ms only`)
      refused.count++
      refused.slowest = Math.max(refused.slowest, milliseconds)
      assert.equal((await fetch(`${cold.address}/health/live`)).status, 200)
      await pause(Math.min(500, outage / 20))
    }
    unready = await told
    const seconds = (performance.now() - began) / 1000
    const [reads, writes] = [load.figures.reads - before.reads, load.figures.writes - before.writes]
    assert.deepEqual(load.figures.problems.slice(0, 10), [], 'a warm request failed')
    assert.ok(reads > 0 && writes > 0)
    const tried = proxy.requests.length
    proxy.fault(null)
    const back = await until('/health/ready is well again', async () => (await ready(clinic)) === well && (await ready(cold)) === well, 60_000)
    assert.equal((await coldRead(cold, first)).answer.status, 200)
    await load.stop()
    assert.deepEqual(load.figures.problems.slice(0, 10), [], 'a warm request failed')
    print(`away for ${seconds.toFixed(0)} s: ${reads} reads and ${writes} writes of warm keys, none failed, slowest ${Math.round(load.figures.slowest)} ms; data keys were opened again every ${dataKey / 1000} s`)
    print(`cold: ${refused.count} refused as key_service_unavailable, slowest after ${Math.round(refused.slowest)} ms; ${tried} requests went to the service in all; told by the probes after ${Math.round(unready)} ms, well again ${Math.round(back)} ms after its return`)

    shift += 61 * 60_000
    const [cost, statuses] = [decrypts(proxy), await burst(cold.address, first)]
    const calls = decrypts(proxy) - cost
    const warm = decrypts(proxy)
    const again = await burst(cold.address, first)
    const shown = (seen: ReadonlyMap<number, number>): string => [...seen].map(([status, count]) => `${count} × ${status}`).join(', ')
    print(`3,000 cold requests at once: ${calls} call of the service (${shown(statuses)}); 3,000 warm ones: ${decrypts(proxy) - warm} (${shown(again)})`)
    // A 503 of a pool that is full says nothing about keys; anything else would.
    for (const seen of [statuses, again]) assert.ok([...seen.keys()].every((status) => status === 200 || status === 503), shown(seen))
    assert.ok((statuses.get(200) ?? 0) > 300)
    assert.deepEqual([calls, decrypts(proxy) - warm], [1, 0])
  } finally {
    await load?.stop()
    await clinic.close()
    await proxy.close()
    await vault.close()
    await database.drop()
  }
}
