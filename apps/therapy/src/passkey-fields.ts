import { z } from 'zod'

/** What browsers send and take for passkeys: the JSON forms of WebAuthn Level 3, §5.1.8 and §5.1.9, as far as we use them. */
const base64url = (most: number): z.ZodString => z.string().max(most).regex(/^[A-Za-z0-9_-]+$/)
const credentialId = base64url(1364)
const type = z.literal('public-key')
const transports = z.array(z.string().regex(/^[a-z-]{2,20}$/)).max(8)
const extensions = z.strictObject({ credProps: z.strictObject({ rk: z.boolean().exactOptional() }).exactOptional() })
const attachment = z.enum(['platform', 'cross-platform']).exactOptional()

/** The answer to navigator.credentials.create(). */
export const creationResponse = z.strictObject({
  id: credentialId, rawId: credentialId, type, authenticatorAttachment: attachment, clientExtensionResults: extensions,
  response: z.strictObject({
    clientDataJSON: base64url(4096), attestationObject: base64url(16_384), transports: transports.exactOptional(),
    authenticatorData: base64url(8192).exactOptional(), publicKey: base64url(4096).exactOptional(), publicKeyAlgorithm: z.int().exactOptional(),
  }),
})

/** The answer to navigator.credentials.get(). */
export const requestResponse = z.strictObject({
  id: credentialId, rawId: credentialId, type, authenticatorAttachment: attachment, clientExtensionResults: extensions,
  response: z.strictObject({
    clientDataJSON: base64url(4096), authenticatorData: base64url(8192), signature: base64url(2048),
    userHandle: base64url(128).exactOptional(),
  }),
})

const descriptor = z.object({ id: z.string(), type: z.string(), transports: z.array(z.string()).optional() })

/** For PublicKeyCredential.parseCreationOptionsFromJSON(). */
export const creationOptions = z.object({
  rp: z.object({ id: z.string().optional(), name: z.string() }),
  user: z.object({ id: z.string(), name: z.string(), displayName: z.string() }),
  challenge: z.string(), timeout: z.int().optional(), attestation: z.string().optional(),
  pubKeyCredParams: z.array(z.object({ alg: z.int(), type: z.string() })),
  excludeCredentials: z.array(descriptor).optional(),
  authenticatorSelection: z.object({ residentKey: z.string().optional(), requireResidentKey: z.boolean().optional(), userVerification: z.string().optional() }).optional(),
})

/** For PublicKeyCredential.parseRequestOptionsFromJSON(). */
export const requestOptions = z.object({
  challenge: z.string(), timeout: z.int().optional(), rpId: z.string().optional(), userVerification: z.string().optional(), allowCredentials: z.array(descriptor).optional(),
})

const digits = z.string().regex(/^\d{6}$/)
const totp = z.strictObject({ kind: z.literal('totp'), code: digits })
const recovery = z.strictObject({ kind: z.literal('recovery'), code: z.string().max(40) })
const webauthn = z.strictObject({ kind: z.literal('webauthn'), response: requestResponse })

/** What somebody proves themselves with. */
export const proof = z.discriminatedUnion('kind', [totp, recovery, webauthn])
export const stepUpProof = z.discriminatedUnion('kind', [totp, recovery, webauthn, z.strictObject({ kind: z.literal('password'), password: z.string().max(512) })])
export const totpCode = digits
