import { createHmac, hash, randomBytes } from 'node:crypto'
import { saltBytes } from '../bytes.ts'
import type { IndexKey } from '../keyring.ts'

/*
 * A refresh token: 16 bytes that all tokens of a family share, then 32 of its own; 64 characters of base64url. The
 * shared part finds the family of a token that was exchanged long ago, so that its reuse ends it; it stands in no access
 * token, list or record, so nobody who never held a token of the family can end it by guessing.
 */
const familyBytes = 16
const ownBytes = 32
const form = /^[A-Za-z0-9_-]{64}$/
const label = Buffer.from('redoubt refresh successor')

/** Bytes of random salt in each exchange; its version of the key stands before it. */
const saltLength = 32

/** The first token of a new family. */
export function firstToken(): Buffer {
  return randomBytes(familyBytes + ownBytes)
}

/** The bytes of a presented token, or undefined for what cannot be one. */
export function readToken(text: string): Buffer | undefined {
  return form.test(text) ? Buffer.from(text, 'base64url') : undefined
}

/** By what the row is found: SHA-256 of the shared part. */
export function familyHash(token: Buffer): Buffer {
  return hash('sha256', token.subarray(0, familyBytes), 'buffer')
}

/** What is stored of a token: SHA-256; 256 random bits need no slow hash. */
export function tokenHash(token: Buffer): Buffer {
  return hash('sha256', token, 'buffer')
}

/** A new salt: version of the key in front. */
export function newSalt(version: number): Buffer {
  return Buffer.concat([Buffer.from([version]), saltBytes(saltLength)])
}

/**
 * The successor of a token, computed and never stored, so that whoever lost the answer gets the same one again. It takes
 * the presented token, the salt in the row and a key that is not in the database: a thief of any one or two of them
 * computes nothing, and the salt of an earlier exchange is gone.
 * @param keys the keys of successors, of which the salt names one; undefined when it is gone
 */
export function successorOf(presented: Buffer, salt: Buffer, keys: readonly IndexKey[]): Buffer | undefined {
  const key = keys.find(({ version }) => version === salt[0])
  if (key === undefined) return undefined
  // All parts have fixed lengths: 25, 48 and 33 bytes.
  const own = createHmac('sha256', key.key).update(label).update(presented).update(salt).digest()
  return Buffer.concat([presented.subarray(0, familyBytes), own])
}
