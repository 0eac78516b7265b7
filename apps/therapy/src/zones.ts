/**
 * Slots are instants (UTC in the database, `tstzrange`); a therapist's time zone is for display and for typing only.
 * Summer time therefore never moves a booked slot: a weekly 09:00 slot is two different UTC times across a change.
 */

const formats = new Map<string, Intl.DateTimeFormat>()

function formatOf(zone: string): Intl.DateTimeFormat {
  let format = formats.get(zone)
  if (format === undefined) {
    format = new Intl.DateTimeFormat('en-GB', {
      timeZone: zone, hourCycle: 'h23', timeZoneName: 'longOffset',
      year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
    })
    formats.set(zone, format)
  }
  return format
}

/** The instant as a clock on the wall in `zone` shows it, with that moment's offset: 2026-03-29T03:00:00+02:00. */
export function localTime(at: Date, zone: string): string {
  const part = Object.fromEntries(formatOf(zone).formatToParts(at).map(({ type, value }) => [type, value]))
  const offset = (part['timeZoneName'] ?? 'GMT').slice(3)
  return `${part['year']}-${part['month']}-${part['day']}T${part['hour']}:${part['minute']}:${part['second']}${offset === '' ? '+00:00' : offset}`
}

/**
 * The instant at which a clock in `zone` shows `local` (YYYY-MM-DDTHH:MM). A time that summer time skips becomes the
 * same distance after the gap (02:30 reads 03:30); of a time that happens twice the first is meant.
 */
export function instantOf(local: string, zone: string): Date {
  const asUtc = Date.parse(`${local}:00Z`)
  if (Number.isNaN(asUtc)) throw new TypeError('instantOf: local must be YYYY-MM-DDTHH:MM')
  const offsetAt = (at: number): number => Date.parse(`${localTime(new Date(at), zone).slice(0, 19)}Z`) - at
  // The offsets half a day before and after surround any change; the earlier instant that shows the time is the answer.
  const offsets = [offsetAt(asUtc - 43_200_000), offsetAt(asUtc + 43_200_000)]
  const candidates = offsets.map((offset) => asUtc - offset).filter((at) => at + offsetAt(at) === asUtc)
  return new Date(candidates.length > 0 ? Math.min(...candidates) : asUtc - (offsets[0] ?? 0))
}
