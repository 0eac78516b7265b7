import type { KeyServiceOptions } from '../kms.ts'
import type { AzureIdentity } from './azure-vault.ts'
import type { VaultSignIn } from './vault-token.ts'

/** The environment of a process, as an argument: only the hands read process.env. */
export type Environment = Readonly<Record<string, string | undefined>>

function identityOf(env: Environment): AzureIdentity {
  const [clientId, tenantId, tokenFile] = [env['AZURE_CLIENT_ID'], env['AZURE_TENANT_ID'], env['AZURE_FEDERATED_TOKEN_FILE']]
  if (tokenFile !== undefined) {
    if (clientId === undefined || tenantId === undefined) throw new TypeError('key service: AZURE_FEDERATED_TOKEN_FILE needs AZURE_CLIENT_ID and AZURE_TENANT_ID')
    return { kind: 'workload', clientId, tenantId, tokenFile }
  }
  // The SDK's own name for it.
  if (env['AZURE_TOKEN_CREDENTIALS'] === 'AzureCliCredential') return { kind: 'cli' }
  return clientId === undefined ? { kind: 'managed' } : { kind: 'managed', clientId }
}

function signInOf(env: Environment): VaultSignIn | undefined {
  const mount = env['VAULT_AUTH_MOUNT'] === undefined ? {} : { mount: env['VAULT_AUTH_MOUNT'] }
  const ways: VaultSignIn[] = []
  const [roleId, secretIdFile, role, file, token] = ['VAULT_ROLE_ID', 'VAULT_SECRET_ID_FILE', 'VAULT_KUBERNETES_ROLE', 'VAULT_TOKEN_FILE', 'VAULT_TOKEN'].map((name) => env[name])
  if (roleId !== undefined) {
    if (secretIdFile === undefined) throw new TypeError('key service: VAULT_ROLE_ID needs VAULT_SECRET_ID_FILE; a secret id in the environment would be a long-lived key there')
    ways.push({ method: 'approle', roleId, secretIdFile, wrapped: env['VAULT_SECRET_ID_WRAPPED'] === 'true', ...mount })
  }
  if (role !== undefined) ways.push({ method: 'kubernetes', role, ...(env['VAULT_JWT_FILE'] === undefined ? {} : { jwtFile: env['VAULT_JWT_FILE'] }), ...mount })
  if (file !== undefined) ways.push({ method: 'token-file', file })
  if (token !== undefined) ways.push({ method: 'token', token })
  if (ways.length > 1) throw new TypeError('key service: name one way to sign in to Vault: VAULT_ROLE_ID, VAULT_KUBERNETES_ROLE, VAULT_TOKEN_FILE or VAULT_TOKEN')
  return ways[0]
}

/**
 * What the key services need from the environment, under the names that their own tools use. AWS needs nothing here:
 * its SDK finds the role of the platform, and AWS_ENDPOINT_URL_KMS, by itself.
 * @throws TypeError naming the variable that is wrong; never its value
 */
export function keyServiceOptions(env: Environment): Pick<KeyServiceOptions, 'azure' | 'vault' | 'previous'> {
  if (!['', 'false', '0', undefined].includes(env['VAULT_SKIP_VERIFY'])) throw new TypeError('key service: VAULT_SKIP_VERIFY is refused; name the authority with VAULT_CACERT')
  const [address, namespace, caFile, previous, signIn] = [env['VAULT_ADDR'], env['VAULT_NAMESPACE'], env['VAULT_CACERT'], env['KMS_PREVIOUS'], signInOf(env)]
  return {
    azure: { identity: identityOf(env) },
    ...(previous === undefined ? {} : { previous }),
    ...(signIn === undefined
      ? {}
      : { vault: { signIn, ...(address === undefined ? {} : { address }), ...(namespace === undefined ? {} : { namespace }), ...(caFile === undefined ? {} : { caFile }) } }),
  }
}
