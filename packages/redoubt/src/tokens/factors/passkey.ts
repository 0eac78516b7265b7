import { isIP } from 'node:net'
import { generateAuthenticationOptions, generateRegistrationOptions, verifyAuthenticationResponse, verifyRegistrationResponse } from '@simplewebauthn/server'
import type { AuthenticationResponseJSON, PublicKeyCredentialCreationOptionsJSON, PublicKeyCredentialRequestOptionsJSON, RegistrationResponseJSON } from '@simplewebauthn/server'
import { uuidBytes } from '../../bytes.ts'
import type { IndexKey, Keyring } from '../../keyring.ts'
import { kernelTables } from '../../tables/kernel.ts'
import { challengeLife, challengeTime, newChallenge } from './challenge.ts'

export type { AuthenticationResponseJSON, PublicKeyCredentialCreationOptionsJSON, PublicKeyCredentialRequestOptionsJSON, RegistrationResponseJSON } from '@simplewebauthn/server'

/** EdDSA, ES256, RS256 (RFC 9053, RFC 8812): what authenticators have. */
const algorithms = [-8, -7, -257]

/** A credential as it stands in redoubt.mfa_factors. */
export type Credential = { readonly id: Buffer; readonly publicKey: string }
/** A new credential, ready to be kept. */
export type NewCredential = { readonly id: Buffer; readonly publicKey: string; readonly transports: readonly string[]; readonly count: number; readonly step: number }

export type Passkeys = {
  creationOptions(user: { readonly id: string; readonly name: string; readonly have: readonly Buffer[] }, use: string): Promise<PublicKeyCredentialCreationOptionsJSON>
  /** The credential that a browser made, or undefined for anything else than an answer to our challenge on our own page. */
  created(response: RegistrationResponseJSON, use: string): Promise<NewCredential | undefined>
  /** @param allow credentials that may answer; none: any that the device has for this site */
  requestOptions(allow: readonly { readonly id: Buffer; readonly transports: readonly string[] }[], use: string): Promise<PublicKeyCredentialRequestOptionsJSON>
  /** When its challenge was made and the authenticator's counter; undefined when it is not this credential's signature. */
  verified(response: AuthenticationResponseJSON, use: string, credential: Credential, user: string): Promise<{ readonly step: number; readonly count: number } | undefined>
}

/**
 * Passkeys (WebAuthn Level 3) of one site. The authenticator must have checked its owner (PIN, finger, face), so that
 * a passkey is two factors by itself. No attestation is asked for: which make of authenticator somebody has is not ours
 * to know.
 * @param site.origin exact origin of the pages; the relying party is its host name. `http` only on localhost
 * @param site.name shown by browsers
 * @throws TypeError for an origin that browsers give no passkeys: an address in numbers, or without TLS
 */
export function openPasskeys(site: { readonly origin: string; readonly name: string; readonly keyring: Pick<Keyring, 'indexKeys'>; readonly now?: () => number }): Passkeys {
  const { name, keyring, now = Date.now } = site
  const url = new URL(site.origin)
  const { origin, hostname: rpID } = url
  if (origin !== site.origin || isIP(rpID) !== 0 || rpID.startsWith('[') || !(url.protocol === 'https:' || (url.protocol === 'http:' && rpID === 'localhost'))) {
    throw new TypeError('openPasskeys: origin must be https:// and a host name, or http://localhost')
  }
  const keys = (): ReturnType<Keyring['indexKeys']> => keyring.indexKeys(kernelTables['redoubt.mfa_factors'].id, 1)
  // A plain array buffer, as the package wants it.
  const bytes = (from: Buffer): Uint8Array<ArrayBuffer> => new Uint8Array(from)

  async function challenge(use: string): Promise<Uint8Array<ArrayBuffer>> {
    const [key] = await keys()
    if (key === undefined) throw new TypeError('openPasskeys: the keyring gave no key')
    return bytes(newChallenge(key, use, now()))
  }

  /** When the challenge in a response was made. A page inside a foreign frame is no page of ours. */
  function made(versions: readonly IndexKey[], clientData: string, use: string): number | undefined {
    const said: unknown = JSON.parse(Buffer.from(clientData, 'base64url').toString('utf8'))
    if (typeof said !== 'object' || said === null || !('challenge' in said) || typeof said.challenge !== 'string') return undefined
    if ('crossOrigin' in said && said.crossOrigin === true) return undefined
    return challengeTime(versions, said.challenge, use, now())
  }

  return Object.freeze<Passkeys>({
    async creationOptions({ id, name: userName, have }, use) {
      return generateRegistrationOptions({
        rpName: name, rpID, userName, userDisplayName: userName, userID: bytes(uuidBytes(id)), challenge: await challenge(use), timeout: challengeLife, attestationType: 'none',
        excludeCredentials: have.map((credential) => ({ id: credential.toString('base64url') })),
        authenticatorSelection: { residentKey: 'preferred', userVerification: 'required' }, supportedAlgorithmIDs: algorithms,
      })
    },
    async created(response, use) {
      const versions = await keys()
      return attempt(async () => {
        const step = made(versions, response.response.clientDataJSON, use)
        if (step === undefined) return undefined
        const { verified, registrationInfo } = await verifyRegistrationResponse({
          response, expectedChallenge: () => true, expectedOrigin: origin, expectedRPID: rpID, requireUserVerification: true, supportedAlgorithmIDs: algorithms,
        })
        if (!verified) return undefined
        const { id, publicKey, counter } = registrationInfo.credential
        const transports = (response.response.transports ?? []).filter((each) => /^[a-z-]{2,20}$/.test(each)).slice(0, 8)
        return { id: Buffer.from(id, 'base64url'), publicKey: Buffer.from(publicKey).toString('base64url'), transports, count: counter, step }
      })
    },
    async requestOptions(allow, use) {
      return generateAuthenticationOptions({
        rpID, challenge: await challenge(use), timeout: challengeLife, userVerification: 'required',
        allowCredentials: allow.map(({ id, transports }) => ({ id: id.toString('base64url'), transports: [...transports] })),
      })
    },
    async verified(response, use, credential, user) {
      const versions = await keys()
      return attempt(async () => {
        const step = made(versions, response.response.clientDataJSON, use)
        if (step === undefined || response.id !== credential.id.toString('base64url')) return undefined
        const { userHandle } = response.response
        if (userHandle !== undefined && userHandle !== '' && userHandle !== uuidBytes(user).toString('base64url')) return undefined
        const { verified, authenticationInfo } = await verifyAuthenticationResponse({
          response, expectedChallenge: () => true, expectedOrigin: origin, expectedRPID: rpID, requireUserVerification: true,
          // Counter 0: whether it grew is asked after the signature held, so that nobody else can raise that alarm.
          credential: { id: response.id, publicKey: bytes(Buffer.from(credential.publicKey, 'base64url')), counter: 0 },
        })
        return verified ? { step, count: authenticationInfo.newCounter } : undefined
      })
    },
  })
}

/** The package throws for everything it does not like, with values in the message; here it is one refusal. */
async function attempt<T>(work: () => Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await work()
  } catch {
    return undefined
  }
}
