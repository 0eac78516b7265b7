/** Optimal string alignment distance, given up above `most`: swapped neighbours count once. */
function distance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return most + 1
  let before: number[] = []
  let above = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let best = Math.min((above[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (above[j - 1] ?? 0) + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, (before[j - 2] ?? 0) + 1)
      row.push(best)
    }
    before = above
    above = row
  }
  return above[b.length] ?? most + 1
}

/** Kubernetes puts these into every container beside a Service of the app's name: not ours, and not a typo. */
const serviceLink = /_(?:SERVICE_(?:HOST|PORT)(?:_.*)?|PORT(?:_\d+_(?:TCP|UDP)(?:_.*)?)?)$/

/**
 * Variables that are set, are not settings, and look as if somebody meant one: the app's own prefix, or one or two
 * letters away from a setting. A misspelt security setting is otherwise a silent default.
 * @param known names of settings; `<name>_FILE` is known with each
 */
export function misspelt(
  known: readonly string[],
  prefix: string,
  present: readonly string[],
): readonly { readonly name: string; readonly meant: string | null }[] {
  const names = known.flatMap((name) => [name, `${name}_FILE`])
  const exact = new Set(names)
  const found: { readonly name: string; readonly meant: string | null }[] = []
  for (const name of present) {
    if (exact.has(name) || serviceLink.test(name)) continue
    const meant = names.find((candidate) => {
      const most = candidate.length >= 8 ? 2 : candidate.length >= 5 ? 1 : 0
      return most > 0 && distance(candidate, name.toUpperCase(), most) <= most
    })
    if (meant !== undefined || name.startsWith(prefix)) found.push({ name, meant: meant ?? null })
  }
  return found
}
