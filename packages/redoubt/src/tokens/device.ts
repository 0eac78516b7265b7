import { hash } from 'node:crypto'
import { isIPv4, isIPv6 } from 'node:net'

/** Most specific first: Edge and Opera also say Chrome, Chrome also says Safari. */
const browsers = [['Edg', 'Edge'], ['OPR/', 'Opera'], ['Firefox/', 'Firefox'], ['FxiOS', 'Firefox'], ['CriOS', 'Chrome'], ['Chrome/', 'Chrome'], ['Safari/', 'Safari'], ['curl/', 'curl']] as const
const systems = [['Windows', 'Windows'], ['Android', 'Android'], ['iPhone', 'iPhone'], ['iPad', 'iPad'], ['CrOS', 'ChromeOS'], ['Mac OS X', 'macOS'], ['Linux', 'Linux']] as const

/**
 * What a person may recognise their device by: browser and system from a fixed list of names. The header itself is
 * never kept nor shown: it is somebody else's text, and rare ones tell people apart.
 */
export function deviceLabel(agent: string | undefined): string {
  const text = (agent ?? '').slice(0, 512)
  const browser = browsers.find(([sign]) => text.includes(sign))?.[1]
  const system = systems.find(([sign]) => text.includes(sign))?.[1]
  if (browser === undefined) return system === undefined ? 'Unknown device' : `Unknown browser on ${system}`
  return system === undefined ? browser : `${browser} on ${system}`
}

/** SHA-256 of the User-Agent header, also of an absent one. */
export function agentHash(agent: string | undefined): Buffer {
  return hash('sha256', agent ?? '', 'buffer')
}

/**
 * The network an address is in: IPv4 /24, IPv6 /64 (what one subscriber has); an IPv4-mapped address is its IPv4 one.
 * @returns in CIDR form, or null for no address
 */
export function addressPrefix(address: string | null): string | null {
  if (address === null) return null
  const plain = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1] ?? address
  if (isIPv4(plain)) return `${plain.slice(0, plain.lastIndexOf('.'))}.0/24`
  if (!isIPv6(plain)) return null
  const [left = '', right] = plain.replace(/%.*$/, '').toLowerCase().split('::')
  const head = left === '' ? [] : left.split(':')
  const tail = right === undefined || right === '' ? [] : right.split(':')
  const groups = right === undefined ? head : [...head, ...Array.from({ length: Math.max(8 - head.length - tail.length, 0) }, () => '0'), ...tail]
  return `${groups.slice(0, 4).map((group) => Number.parseInt(group, 16).toString(16)).join(':')}::/64`
}
