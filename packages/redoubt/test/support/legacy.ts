import { createCipheriv, createHash, createHmac, randomBytes } from 'node:crypto'

/** Writers of the forms of older systems, independent of what reads them. */

export const passphrase = 'correct horse battery staple'
export const gcmKey = createHash('sha256').update('an old key').digest()
export const jwtSecret = 'an old secret of the tokens'

/** As CryptoJS.AES.encrypt(text, passphrase).toString(). */
export function cryptoJs(text: string, salt: Buffer = randomBytes(8), secret: string = passphrase): string {
  let derived = Buffer.alloc(0)
  let block = Buffer.alloc(0)
  while (derived.length < 48) {
    block = createHash('md5').update(Buffer.concat([block, Buffer.from(secret), salt])).digest()
    derived = Buffer.concat([derived, block])
  }
  const cipher = createCipheriv('aes-256-cbc', derived.subarray(0, 32), derived.subarray(32))
  return Buffer.concat([Buffer.from('Salted__'), salt, cipher.update(text, 'utf8'), cipher.final()]).toString('base64')
}

/** `gcm:v1:` in the writings that are found. */
export function gcmV1(text: string, form: 'tag last' | 'tag first' | 'one part' | 'hexadecimal' = 'tag last', nonce: Buffer = randomBytes(12)): string {
  const cipher = createCipheriv('aes-256-gcm', gcmKey, nonce)
  const ciphertext = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()])
  const tag = cipher.getAuthTag()
  const encoding = form === 'hexadecimal' ? 'hex' : 'base64'
  const parts = form === 'one part' ? [Buffer.concat([nonce, ciphertext, tag])] : form === 'tag first' ? [nonce, tag, ciphertext] : [nonce, ciphertext, tag]
  return `gcm:v1:${parts.map((part) => part.toString(encoding)).join(':')}`
}

/** A signed token around a number, as jsonwebtoken writes it. */
export function signedToken(number: string, more: { readonly alg?: string; readonly secret?: string } = {}): string {
  const head = Buffer.from(JSON.stringify({ alg: more.alg ?? 'HS256', typ: 'JWT' })).toString('base64url')
  const body = Buffer.from(JSON.stringify({ number, iat: 1_600_000_000, exp: 1_600_000_900 })).toString('base64url')
  return `${head}.${body}.${createHmac('sha256', more.secret ?? jwtSecret).update(`${head}.${body}`).digest('base64url')}`
}
