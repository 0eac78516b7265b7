import assert from 'node:assert/strict'
import { test } from 'node:test'
import { keyServiceOptions } from '../src/kms/environment.ts'

test('an empty environment asks for the identity of the machine and names no Vault', () => {
  assert.deepEqual(keyServiceOptions({}), { azure: { identity: { kind: 'managed' } } })
})

test('the identity for Azure is the one the platform announces', () => {
  assert.deepEqual(keyServiceOptions({ AZURE_CLIENT_ID: 'c' }).azure, { identity: { kind: 'managed', clientId: 'c' } })
  assert.deepEqual(keyServiceOptions({ AZURE_CLIENT_ID: 'c', AZURE_TENANT_ID: 't', AZURE_FEDERATED_TOKEN_FILE: '/f' }).azure, {
    identity: { kind: 'workload', clientId: 'c', tenantId: 't', tokenFile: '/f' },
  })
  assert.deepEqual(keyServiceOptions({ AZURE_TOKEN_CREDENTIALS: 'AzureCliCredential' }).azure, { identity: { kind: 'cli' } })
  assert.throws(() => keyServiceOptions({ AZURE_FEDERATED_TOKEN_FILE: '/f' }), /AZURE_CLIENT_ID and AZURE_TENANT_ID/)
})

test('attack: a client secret in the environment is not used', () => {
  assert.deepEqual(keyServiceOptions({ AZURE_CLIENT_ID: 'c', AZURE_TENANT_ID: 't', AZURE_CLIENT_SECRET: 's' }).azure, { identity: { kind: 'managed', clientId: 'c' } })
})

test('each way to sign in to Vault comes from its variables, and only one may be named', () => {
  const address = { VAULT_ADDR: 'https://vault.example', VAULT_NAMESPACE: 'team', VAULT_CACERT: '/ca.pem' }
  const common = { address: 'https://vault.example', namespace: 'team', caFile: '/ca.pem' }
  assert.deepEqual(keyServiceOptions({ ...address, VAULT_ROLE_ID: 'r', VAULT_SECRET_ID_FILE: '/s', VAULT_SECRET_ID_WRAPPED: 'true', VAULT_AUTH_MOUNT: 'm' }).vault, {
    ...common,
    signIn: { method: 'approle', roleId: 'r', secretIdFile: '/s', wrapped: true, mount: 'm' },
  })
  assert.deepEqual(keyServiceOptions({ ...address, VAULT_KUBERNETES_ROLE: 'r', VAULT_JWT_FILE: '/j' }).vault, { ...common, signIn: { method: 'kubernetes', role: 'r', jwtFile: '/j' } })
  assert.deepEqual(keyServiceOptions({ ...address, VAULT_TOKEN_FILE: '/t' }).vault, { ...common, signIn: { method: 'token-file', file: '/t' } })
  assert.deepEqual(keyServiceOptions({ VAULT_TOKEN: 't' }).vault, { signIn: { method: 'token', token: 't' } })
  assert.throws(() => keyServiceOptions({ VAULT_TOKEN: 'hvs.value', VAULT_TOKEN_FILE: '/t' }), (error) => error instanceof TypeError && !error.message.includes('hvs.value'))
  assert.throws(() => keyServiceOptions({ VAULT_ROLE_ID: 'r' }), /VAULT_SECRET_ID_FILE/)
})

test('attack: VAULT_SKIP_VERIFY does not switch off the check of certificates, it is refused', () => {
  for (const value of ['true', '1', 'TRUE', 'yes']) assert.throws(() => keyServiceOptions({ VAULT_SKIP_VERIFY: value }), /VAULT_CACERT/)
  for (const value of ['', 'false', '0']) keyServiceOptions({ VAULT_SKIP_VERIFY: value })
})

test('the service that is left comes from KMS_PREVIOUS', () => {
  assert.equal(keyServiceOptions({ KMS_PREVIOUS: 'aws:alias/old?region=eu-west-1' }).previous, 'aws:alias/old?region=eu-west-1')
})
