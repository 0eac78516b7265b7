/** An IP address as numbers: 4 bytes, or 8 groups of 16 bits. */
export type Address = { readonly family: 4; readonly parts: readonly number[] } | { readonly family: 6; readonly parts: readonly number[] }

/**
 * Reads a textual IP address (RFC 4291 §2.2), without zone. The forms that carry an IPv4 address of somebody, IPv4-mapped
 * (::ffff:0:0/96) in either writing and the well-known NAT64 prefix (64:ff9b::/96, RFC 6052), become that IPv4 address:
 * behind a translator all of IPv4 would otherwise be one IPv6 network.
 * @returns null when the text is no address
 */
export function parseAddress(text: string): Address | null {
  const zone = text.indexOf('%')
  const bare = zone < 0 ? text : text.slice(0, zone)
  if (!bare.includes(':')) {
    const parts = bytesOf(bare)
    return parts === null ? null : { family: 4, parts }
  }
  const groups = groupsOf(bare)
  if (groups === null) return null
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0] = groups
  const mapped = (a | b | c | d | e) === 0 && f === 0xffff
  const translated = a === 0x64 && b === 0xff9b && (c | d | e | f) === 0
  if (mapped || translated) return { family: 4, parts: [g >> 8, g & 0xff, h >> 8, h & 0xff] }
  return { family: 6, parts: groups }
}

/**
 * The network of an address in CIDR form, such as 192.0.2.7/32 or 2001:db8:0:1::/64.
 * @param bits of the network for IPv4 (8, 16, 24, 32) and for IPv6 (16, 32, 48, 64)
 */
export function networkOf(address: Address, bits: { readonly v4: 8 | 16 | 24 | 32; readonly v6: 16 | 32 | 48 | 64 }): string {
  if (address.family === 4) {
    const kept = bits.v4 / 8
    return `${address.parts.map((part, at) => (at < kept ? part : 0)).join('.')}/${bits.v4}`
  }
  return `${address.parts.slice(0, bits.v6 / 16).map((part) => part.toString(16)).join(':')}::/${bits.v6}`
}

function bytesOf(text: string): readonly number[] | null {
  const parts = text.split('.')
  if (parts.length !== 4) return null
  const bytes = parts.map((part) => (/^(?:0|[1-9]\d{0,2})$/.test(part) ? Number(part) : 256))
  return bytes.every((byte) => byte < 256) ? bytes : null
}

function groupsOf(text: string): readonly number[] | null {
  const halves = text.split('::')
  if (halves.length > 2) return null
  const [head = [], tail = []] = halves.map((half) => (half === '' ? [] : half.split(':')))
  // Dotted only at the very end, which is the head's where there is no `::`.
  const end = halves.length === 2 ? tail : head
  const last = end.at(-1)
  if (last?.includes('.') === true) {
    const bytes = bytesOf(last)
    if (bytes === null) return null
    const [a = 0, b = 0, c = 0, d = 0] = bytes
    end.splice(-1, 1, ((a << 8) | b).toString(16), ((c << 8) | d).toString(16))
  }
  const given = [...head, ...tail]
  if (!given.every((group) => /^[0-9a-f]{1,4}$/i.test(group))) return null
  const missing = 8 - given.length
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null
  return [...head, ...Array.from({ length: missing }, () => '0'), ...tail].map((group) => Number.parseInt(group, 16))
}
