import assert from 'node:assert/strict'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { noChromium, openChromium, type Visit } from './chromium.ts'
import { openClinic, type Clinic, type Someone } from './clinic.ts'

/** The pages of a clinic in a real browser. */
export type Site = {
  readonly clinic: Clinic
  readonly origin: string
  /** Of the administration. */
  readonly adminOrigin: string
  /** For the option `skip` of a test. */
  readonly skip: string | false
  visit(size?: 'telephone' | 'desk'): Promise<Visit>
  /** Fills the sign-in page in and sends it. @param door default the one of patients and therapists */
  fillIn(at: Visit, someone: Pick<Someone, 'email' | 'password'>, door?: string): Promise<void>
  signedIn(someone: Someone, size?: 'telephone' | 'desk'): Promise<Visit>
  /** Another site's pages. */
  foreign(html: string): Promise<{ readonly crossSite: string; readonly sameSite: string }>
  /** Looks at a page: keeps a picture of it where SCREENSHOTS names a folder, on a telephone and at a desk. */
  picture(at: Visit, name: string): Promise<void>
}

export async function openSite(): Promise<Site> {
  const [origin, adminOrigin] = ['http://localhost:4310', 'http://localhost:4311']
  const clinic = await openClinic({ settings: { publicOrigin: origin, adminOrigin } })
  const chromium = noChromium === false ? await openChromium([[origin, clinic.address], ['http://127.0.0.1:4310', clinic.address], [adminOrigin, clinic.adminAddress]]) : undefined
  const visit: Site['visit'] = (size) => chromium?.visit(size) ?? assert.fail()
  const fillIn: Site['fillIn'] = async ({ page }, { email, password }, door = origin) => {
    await page.goto(`${door}/sign-in`)
    await page.getByLabel('E-mail address').fill(email)
    await page.getByLabel('Password').fill(password)
    await page.getByRole('button', { name: 'Sign in', exact: true }).click()
  }
  return {
    clinic, origin, adminOrigin, skip: noChromium, visit, fillIn,
    async signedIn(someone, size) {
      const at = await visit(size)
      await fillIn(at, someone)
      await at.page.waitForURL(`${origin}/account/sessions`)
      return at
    },
    foreign: (html) => chromium?.foreign(html) ?? assert.fail(),
    async picture({ page }, name) {
      const folder = process.env['SCREENSHOTS']
      if (folder === undefined) return
      await mkdir(folder, { recursive: true })
      const size = page.viewportSize()
      for (const [where, viewport] of [['telephone', { width: 390, height: 844 }], ['desk', { width: 1280, height: 800 }]] as const) {
        await page.setViewportSize(viewport)
        await page.screenshot({ path: join(folder, `${name}-${where}.png`), fullPage: true })
      }
      if (size !== null) await page.setViewportSize(size)
    },
  }
}

/** Nothing on the pages was stopped by their policy, and no script failed. */
export function clean({ complaints }: Visit): void {
  assert.deepEqual(complaints, [])
}
