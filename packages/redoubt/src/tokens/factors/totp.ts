import { generateSecret, generateURI, verifySync } from 'otplib'

/** Seconds a code stands (RFC 6238 §4.1), and steps a clock may be off either way (§5.2 recommends one). */
const totpPeriod = 30
const codeForm = /^\d{6}$/

/** A new shared secret: 160 bits in base32, the length of the HMAC's output (RFC 4226 §4, R6). */
export function newTotpSecret(): string {
  return generateSecret({ length: 20 })
}

/**
 * What an authenticator app reads as a QR code. SHA-1, six digits, 30 seconds: what every app takes.
 * @param issuer the service's name and account what the person knows theirs by, both shown by the app
 */
export function totpUri({ issuer, account, secret }: { readonly issuer: string; readonly account: string; readonly secret: string }): string {
  return generateURI({ issuer, label: account, secret, digits: 6, period: totpPeriod, algorithm: 'sha1' })
}

/**
 * The time step a code is of, or undefined for a wrong one. Whether the step was used before is the database's to say.
 * @param now milliseconds since 1970
 */
export function totpStep(secret: string, code: string, now: number): number | undefined {
  if (!codeForm.test(code)) return undefined
  const result = verifySync({ secret, token: code, epoch: Math.floor(now / 1000), epochTolerance: totpPeriod, digits: 6, period: totpPeriod, algorithm: 'sha1', strategy: 'totp' })
  return result.valid && 'timeStep' in result ? result.timeStep : undefined
}
