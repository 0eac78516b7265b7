import { after } from 'node:test'
import { openKeyService, type KeyService, type KeyServiceOptions } from '../src/kms.ts'
import { keyServiceContract } from './contracts/key-service.ts'
import { canary, faultContract } from './contracts/key-service-faults.ts'
import { startFaultProxy, type Fault } from './support/fault-proxy.ts'
import { startVault } from './support/vault.ts'

const vault = await startVault()
const proxy = await startFaultProxy(vault.origin)
vault.transit('POST', 'keys/root', { derived: true })
vault.transit('POST', 'keys/other', { derived: true })
after(async () => {
  await proxy.close()
  await vault.close()
})

function open(where: string, address: string, more: Pick<KeyServiceOptions, 'patience' | 'emit'> = {}): Promise<KeyService> {
  return openKeyService(`vault:${where}`, { ...more, production: false, vault: { address, signIn: { method: 'token', token: vault.token({}) } } })
}

function says(status: number, ...errors: readonly string[]): Extract<Fault, { kind: 'answer' }> {
  return { kind: 'answer', status, body: `${JSON.stringify({ errors })}\n`, headers: { 'cache-control': 'no-store' } }
}

keyServiceContract('vault', () => open('transit/root', vault.origin), () => open('transit/other', vault.origin))

faultContract({
  name: 'vault',
  proxy,
  open: (options) => open('transit/root', proxy.origin, options),
  unwraps: ({ path }) => path.startsWith('/v1/transit/decrypt/'),
  throttled: says(429, `request path "transit/decrypt/${canary}": rate limit quota exceeded`),
  worded: [
    { title: 'a denied key', fault: says(403, `1 error occurred:\n\t* permission denied ${canary}\n\n`), says: /^key_refused: the key service denies/, tries: 1 },
    { title: 'a deleted key', fault: says(400, `encryption key not found ${canary}`), says: /^key_refused: the key is deleted/, tries: 1 },
    { title: 'a mount that is gone', fault: says(404, `no handler for route "${canary}". route entry not found.`), says: /^key_refused: the key is deleted/, tries: 1 },
    { title: 'a retired version', fault: says(400, `ciphertext or signature version is disallowed by policy (too old) ${canary}`), says: /^key_refused: this version of the key is expired/, tries: 1 },
    { title: 'another context or tampering', fault: says(400, `cipher: message authentication failed ${canary}`), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
    { title: 'a version from the future', fault: says(400, `invalid ciphertext: version is too new ${canary}`), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
    { title: 'a ciphertext cut short', fault: says(400, `invalid ciphertext: could not decode base64 ${canary}`), says: /^key_refused: a wrapped key does not open here/, tries: 1 },
    { title: 'a path nobody may see', fault: { kind: 'answer', status: 404, body: '{"errors":[]}' }, says: /^key_refused: the key is deleted/, tries: 1 },
    { title: 'a server error', fault: says(500, `internal error ${canary}`), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a disaster recovery secondary', fault: says(472, canary), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a key that cannot decrypt', fault: says(400, `${canary} does not support decryption`), says: /^key_refused: the key cannot be used this way/, tries: 1 },
    { title: 'a sealed service', fault: says(503, `Vault is sealed ${canary}`), says: /^key_service_unavailable: the key service is sealed/, tries: 4 },
    { title: 'a state not replicated yet', fault: says(412, `required index state not present ${canary}`), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a performance standby', fault: says(473, canary), says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'an error without words', fault: { kind: 'answer', status: 400, body: '{"errors":[]}' }, says: /^key_refused: the key cannot be used this way/, tries: 1 },
    { title: 'a gateway in front', fault: { kind: 'answer', status: 502, body: `<html>${canary}</html>`, headers: { 'content-type': 'text/html' } }, says: /^key_service_unavailable: the key service did not answer/, tries: 4 },
    { title: 'a redirect', fault: { kind: 'answer', status: 307, body: '', headers: { location: `http://127.0.0.1:1/${canary}` } }, says: /^key_service_unavailable: .*redirect/, tries: 1 },
    { title: 'an answer without the key', fault: { kind: 'answer', status: 200, body: JSON.stringify({ data: { other: canary } }) }, says: /^key_service_unavailable: what answered is not/, tries: 4 },
    { title: 'an answer of another content type', fault: { kind: 'answer', status: 200, body: JSON.stringify({ data: { plaintext: Buffer.alloc(32, 7).toString('base64') } }), headers: { 'content-type': 'text/plain' } }, says: /^key_service_unavailable: what answered is not/, tries: 4 },
    { title: 'a key of another length', fault: { kind: 'answer', status: 200, body: JSON.stringify({ data: { plaintext: 'AAAA' } }) }, says: /^key_refused: a wrapped key does not open here/, tries: 1 },
  ],
})
