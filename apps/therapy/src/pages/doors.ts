import type { Person } from 'redoubt/context'
import type { Realm } from 'redoubt/tokens/sessions'

/** Whoever asks for a page, and the token of its forms. */
export type Asking = { readonly caller: Person; readonly csrf: string }

/** What the pages of one door say of themselves. */
type Door = { readonly name: string; readonly footer: string }

export const doors: Readonly<Record<Realm, Door>> = {
  tenant: { name: 'Therapy', footer: 'What you share with your therapist stays between the two of you. We never ask for your password by e-mail or telephone.' },
  platform: { name: 'Therapy administration', footer: 'What is done here is recorded. Records of care are not here.' },
}

type Entry = readonly [path: `/${string}`, name: string]
const own: readonly Entry[] = [['/account/sessions', 'Devices'], ['/account/security', 'Security']]
const menus: Readonly<Record<string, readonly Entry[]>> = {
  admin: [['/accounts', 'Accounts'], ['/record', 'Record'], ...own],
  auditor: [['/record', 'Record'], ...own],
  // Nothing else is open to whoever has no second factor yet.
  enrolment: [['/enrolment', 'First steps'], ...own],
}

/** The menu of a role. */
export function menuOf(role: string): readonly Entry[] {
  return menus[role] ?? own
}

/** Where somebody is led whom a page is not for: to the first steps while these are all there is, and from them once they are done. */
export function insteadOf(role: string, path: string): string | undefined {
  return role === 'enrolment' || path === '/enrolment' ? firstPage(role) : undefined
}

/** Where somebody of this role begins. */
export function firstPage(role: string): string {
  return menuOf(role)[0]?.[0] ?? '/account/sessions'
}
