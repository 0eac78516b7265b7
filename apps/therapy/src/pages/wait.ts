/** A wait in seconds, in words. */
export function waitOf(seconds: number | undefined): string {
  if (seconds === undefined) return 'a few minutes'
  return seconds < 90 ? `${Math.max(1, Math.ceil(seconds))} seconds` : `${Math.ceil(seconds / 60)} minutes`
}
