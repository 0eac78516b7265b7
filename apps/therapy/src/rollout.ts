import type { Emit } from 'redoubt/events'
import type { openControls } from 'redoubt/http/controls'
import type { Hsts } from 'redoubt/http/headers'
import type { Settings } from './config.ts'

/** In two steps and two more (B057): a wrong year cannot be taken back, browsers remember it. */
export const hstsOf = {
  trial: { maxAge: 300 },
  year: { maxAge: 31_536_000 },
  subdomains: { maxAge: 31_536_000, includeSubDomains: true },
  preload: { maxAge: 31_536_000, includeSubDomains: true, preload: true },
} as const satisfies Record<Settings['HSTS'], Hsts>

/**
 * What openControls takes: HTTPS is off outside production unless it is named; configuration has refused a plain `off` in
 * production already.
 */
export function modesOf(settings: { readonly controls?: Settings['CONTROLS']; readonly production: boolean; readonly emit: Emit }): Parameters<typeof openControls> {
  const { controls = {}, production, emit } = settings
  const words = Object.entries(controls)
  const modes = Object.fromEntries(words.map(([name, word]) => [name, word === 'insecure-off' ? 'off' : word]))
  return [{ ...(production ? {} : { https: 'off' as const }), ...modes }, { emit, insecureOff: !production || words.some(([, word]) => word === 'insecure-off') }]
}
