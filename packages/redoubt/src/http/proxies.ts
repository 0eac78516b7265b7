import { BlockList, isIP } from 'node:net'
import type { Socket } from 'node:net'
import type { IncomingMessage } from 'node:http'

/** Whose X-Forwarded-* and X-Request-Id are believed. */
export type Proxies = {
  /** True when the peer of the connection is a trusted proxy. */
  trusts(req: IncomingMessage): boolean
  /** The client's address: the first hop, from the right, that is not a trusted proxy. */
  address(req: IncomingMessage): string | null
  /** True when the client spoke TLS, to us or to a trusted proxy. */
  secure(req: IncomingMessage): boolean
}

const peerKey = Symbol('redoubt peer')
type Peer = { readonly address: string | null; readonly trusted: boolean }
type MarkedSocket = Socket & { [peerKey]?: { readonly by: BlockList; readonly peer: Peer } }

/**
 * Trust in exact addresses: express's `trust proxy: true` lets every client write its own address. Where proxies have
 * no fixed ones, `hops:<n>` trusts the peer and n − 1 hops behind it, each having appended its own peer. That holds only
 * while nobody but the proxies can connect; a list of fewer hops than n did not come through all of them, and is not
 * believed. The header Forwarded (RFC 7239) is never read: a proxy that sets one leaves a client's own in place of the other.
 * @param list addresses or CIDR ranges of the proxies, or `hops:<n>` alone; empty when clients connect directly
 * @throws TypeError for `true`, for a host name, for a range that covers everything
 */
export function openProxies(list: readonly string[]): Proxies {
  const given: unknown = list
  if (!Array.isArray(given)) {
    throw new TypeError('trustedProxies must be a list of addresses or CIDR ranges; trusting every hop is not possible')
  }
  const [first] = list
  if (list.length === 1 && typeof first === 'string' && first.startsWith('hops:')) return openHops(first.slice(5))
  const trusted = new BlockList()
  for (const entry of list) addTo(trusted, entry)

  const isTrusted = (address: string): boolean => trusted.check(address, address.includes(':') ? 'ipv6' : 'ipv4')
  const peerOf = (req: IncomingMessage): Peer => {
    const socket = req.socket as MarkedSocket
    const known = socket[peerKey]
    if (known?.by === trusted) return known.peer
    const address = canonical(socket.remoteAddress)
    const peer = { address, trusted: list.length > 0 && address !== null && isTrusted(address) }
    socket[peerKey] = { by: trusted, peer }
    return peer
  }

  return {
    trusts: (req) => peerOf(req).trusted,
    address(req) {
      const peer = peerOf(req)
      const forwarded = req.headers['x-forwarded-for']
      if (!peer.trusted || typeof forwarded !== 'string') return peer.address
      const hops = forwarded.split(',')
      let nearest = peer.address
      for (let i = hops.length - 1; i >= 0; i--) {
        const hop = canonical(hops[i]?.trim())
        if (hop === null) return nearest
        nearest = hop
        if (!isTrusted(hop)) return hop
      }
      return nearest
    },
    secure(req) {
      if ((req.socket as Socket & { encrypted?: boolean }).encrypted === true) return true
      return peerOf(req).trusted && saysHttps(req)
    },
  }
}

/** The nearest proxy appends, so only the last word is its own; earlier ones came with the request. */
function saysHttps(req: IncomingMessage): boolean {
  const proto = req.headers['x-forwarded-proto']
  return typeof proto === 'string' && proto.slice(proto.lastIndexOf(',') + 1).trim().toLowerCase() === 'https'
}

/** Proxies without fixed addresses: the peer is one by definition, and appends whom it spoke to. */
function openHops(text: string): Proxies {
  const hops = /^[1-5]$/.test(text) ? Number(text) : 0
  if (hops === 0) throw new TypeError('trustedProxies: hops must be hops:1 to hops:5')
  return {
    trusts: () => true,
    address(req) {
      const forwarded = req.headers['x-forwarded-for']
      const given = typeof forwarded === 'string' ? forwarded.split(',') : []
      return canonical(given.at(-hops)?.trim()) ?? canonical(req.socket.remoteAddress)
    },
    secure: (req) => (req.socket as Socket & { encrypted?: boolean }).encrypted === true || saysHttps(req),
  }
}

function addTo(trusted: BlockList, entry: string): void {
  const [address, bits, ...rest] = typeof entry === 'string' ? entry.split('/') : []
  const family = isIP(address ?? '')
  if (address === undefined || family === 0 || rest.length > 0) {
    throw new TypeError('trustedProxies: every entry must be an IP address or a CIDR range')
  }
  const kind = family === 6 ? 'ipv6' : 'ipv4'
  if (bits === undefined) return trusted.addAddress(address, kind)
  const prefix = /^\d{1,3}$/.test(bits) ? Number(bits) : -1
  if (prefix < 1 || prefix > (family === 6 ? 128 : 32)) {
    throw new TypeError('trustedProxies: a range must have a prefix of at least 1 bit; trusting everybody is not possible')
  }
  trusted.addSubnet(address, prefix, kind)
}

/** Without zone, and with IPv4 as IPv4 (a dual-stack socket says ::ffff:10.0.0.1); null when it is no address. */
function canonical(text: string | undefined): string | null {
  if (text === undefined) return null
  const bare = text.startsWith('::ffff:') && text.includes('.') ? text.slice(7) : text
  const zone = bare.indexOf('%')
  const address = zone < 0 ? bare : bare.slice(0, zone)
  return isIP(address) === 0 ? null : address
}
