import { existsSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { after } from 'node:test'
import { chromium, type BrowserContext, type Page } from 'playwright-core'

// Named, never looked for: what a browser takes is no part of what npm test takes on a machine with nothing but npm.
const named = process.env['REDOUBT_BROWSER'] ?? ''
const executablePath = existsSync(named) ? named : undefined
/** For the option `skip` of a test: why there is none, or false. */
export const noChromium = executablePath === undefined ? 'REDOUBT_BROWSER names no browser (Debian: apt-get install chromium, REDOUBT_BROWSER=/usr/bin/chromium)' : false

/** A telephone and a desk. */
export const sizes = { telephone: { width: 390, height: 844 }, desk: { width: 1280, height: 800 } } as const

export type Visit = {
  readonly context: BrowserContext
  readonly page: Page
  /** What the console said of the content security policy, and errors of scripts. */
  readonly complaints: readonly string[]
}

export type Chromium = {
  /** A browser that nobody has used yet. */
  visit(size?: keyof typeof sizes): Promise<Visit>
  /** Somebody else's web server: at an address in numbers (cross-site), and on localhost (another port of the same site). */
  foreign(html: string): Promise<{ readonly crossSite: string; readonly sameSite: string }>
}

/**
 * The machine's Chromium, until the end of the file.
 * @param places origins that the service believes to be its public ones, each with the address where it listens; the
 *   browser is told to go there for the origin
 */
export async function openChromium(places: readonly (readonly [origin: string, address: string])[]): Promise<Chromium> {
  if (executablePath === undefined) throw new TypeError('openChromium: there is none; ask noChromium first')
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-dev-shm-usage', '--no-proxy-server', '--short-reporting-delay',
      `--host-resolver-rules=${places.map(([origin, address]) => `MAP ${new URL(origin).host} ${new URL(address).host}`).join(', ')}`,
    ],
  })
  after(() => browser.close())
  return {
    async visit(size = 'desk') {
      // Certificates of the tests sign themselves.
      const context = await browser.newContext({ viewport: sizes[size], locale: 'en-GB', ignoreHTTPSErrors: true })
      const page = await context.newPage()
      const complaints: string[] = []
      context.on('console', (message) => /Content.Security.Policy|Trusted/i.test(message.text()) && complaints.push(message.text()))
      context.on('weberror', (error) => complaints.push(error.error().message))
      page.setDefaultTimeout(30_000)
      return { context, page, complaints }
    },
    async foreign(html) {
      const server = createServer((_, res) => res.setHeader('content-type', 'text/html').end(html))
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      after(() => server.close())
      const { port } = server.address() as AddressInfo
      return { crossSite: `http://127.0.0.1:${port}/`, sameSite: `http://localhost:${port}/` }
    },
  }
}
