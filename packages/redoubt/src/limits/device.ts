import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { framed } from '../bytes.ts'

/** Names one device remembers: two for each account of a household. The oldest give way. */
const mostNames = 8
/** Days a device stays known after a sign-in. */
export const deviceDays = 180

const form = /^([A-Za-z0-9_-]{22})((?:\.[0-9a-z]{7}[A-Za-z0-9_-]{22}){1,8})$/

/** Devices somebody signed in with. Knowing one grants nothing but tries of its own. */
export type Devices = {
  /**
   * The device's id, when this value proves that the account was signed in to on it.
   * @param account the keyed name of the account
   */
  known(value: string | undefined, account: Buffer | string): Promise<string | undefined>
  /**
   * The value to keep on the device after a sign-in; the accounts the old one proves stay in it.
   * @param accounts the names under which the account will be asked for, most eight
   */
  remember(value: string | undefined, accounts: readonly (Buffer | string)[]): Promise<string>
}

/**
 * The value of a known-device cookie: 128 random bits that name the device, then for each account an expiry and an
 * HMAC over device, account and expiry. It says nothing of whose accounts these are, nothing is stored, and a value made
 * for one account proves nothing for another: a stranger can make none for somebody else's.
 * @param options.keys HMAC keys, the one that signs first
 * @param options.now milliseconds since 1970
 */
export function openDevices(options: { readonly keys: () => Promise<readonly KeyObject[]>; readonly now?: () => number }): Devices {
  const { keys } = options
  const now = options.now ?? (() => Date.now())

  const macOf = (key: KeyObject, device: string, account: Buffer | string, expiry: string): Buffer =>
    createHmac('sha256', key).update(framed(['redoubt known device', device, account, expiry])).digest().subarray(0, 16)

  function read(value: string | undefined): { readonly device: string; readonly entries: readonly string[] } | undefined {
    const parts = value === undefined ? null : form.exec(value)
    if (parts === null) return undefined
    const seconds = now() / 1000
    return { device: parts[1] ?? '', entries: (parts[2] ?? '').slice(1).split('.').filter((entry) => Number.parseInt(entry.slice(0, 7), 36) > seconds) }
  }

  function proves(all: readonly KeyObject[], device: string, entry: string, account: Buffer | string): boolean {
    const mac = Buffer.from(entry.slice(7), 'base64url')
    return all.some((key) => timingSafeEqual(macOf(key, device, account, entry.slice(0, 7)), mac))
  }

  return Object.freeze<Devices>({
    async known(value, account) {
      const given = read(value)
      if (given === undefined) return undefined
      const all = await keys()
      return given.entries.some((entry) => proves(all, given.device, entry, account)) ? given.device : undefined
    },
    async remember(value, accounts) {
      const all = await keys()
      const [key] = all
      if (key === undefined) throw new TypeError('openDevices: keys gave no key')
      const given = read(value)
      const device = given?.device ?? randomBytes(16).toString('base64url')
      const others = (given?.entries ?? []).filter((entry) => !accounts.some((account) => proves(all, device, entry, account)))
      const expiry = Math.floor(now() / 1000 + deviceDays * 86_400).toString(36).padStart(7, '0')
      const fresh = accounts.map((account) => `${expiry}${macOf(key, device, account, expiry).toString('base64url')}`)
      return [device, ...[...fresh, ...others].slice(0, mostNames)].join('.')
    },
  })
}
