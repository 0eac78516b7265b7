import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { asset } from 'redoubt/http/asset'
import { csrfField } from 'redoubt/http/csrf'
import { html, type Html } from 'redoubt/http/html'
import type { Refused } from 'redoubt/http/pages'
import type { Realm } from 'redoubt/tokens/sessions'
import { doors, menuOf, type Asking } from './doors.ts'

const folder = join(import.meta.dirname, '../../assets')
const style = asset('/assets/pages.css', readFileSync(join(folder, 'pages.css')))
const passkeys = asset('/assets/passkeys.js', readFileSync(join(folder, 'passkeys.js')))
const icon = asset('/assets/icon.svg', readFileSync(join(folder, 'icon.svg')))

/** The files that pages are made of. */
export const assetRoutes = [style.route, passkeys.route, icon.route]

export type Frame = {
  readonly title: string
  /** The heading, where it says more than the title. */
  readonly heading?: string
  readonly content: Html
  /** Somebody signed in: the page has a menu then, and a button to sign out. */
  readonly by?: Asking
  /** Which entry of the menu it is. */
  readonly here?: string
  /** What went wrong: read out at once, and in front of the title. */
  readonly wrong?: string | undefined
  /** What was done: read out when there is time. */
  readonly told?: string | undefined
  /** True: loads the script for passkeys. */
  readonly passkeys?: boolean
}

/** A whole page of Therapy. @param door of patients and therapists, or of the administration */
export function frame(door: Realm, { title, heading = title, content, by, here, wrong, told, passkeys: withPasskeys }: Frame): Html {
  const { name, footer } = doors[door]
  return html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${wrong !== undefined && 'Error: '}${title} – ${name}</title>
<link rel="icon" href="${icon.url}" type="image/svg+xml">
<link rel="stylesheet" href="${style.url}" integrity="${style.integrity}">
${withPasskeys === true && html`<script src="${passkeys.url}" integrity="${passkeys.integrity}" defer></script>`}
</head>
<body class="${by === undefined ? 'door' : 'inside'}">
<a class="skip" href="#content">Skip to the content</a>
<header><div class="bar">
<a class="brand" href="/"><img src="${icon.url}" alt="" width="32" height="32"><span>${name}</span></a>
${by !== undefined && html`<nav aria-label="Account">${menuOf(by.caller.role).map(([path, entry]) => html`<a href="${path}"${here === path && html` aria-current="page"`}>${entry}</a>`)}</nav>
<form method="post" action="/account/sign-out">${token(by.csrf)}<button class="quiet">Sign out</button></form>`}
</div></header>
<main id="content" tabindex="-1">
<h1>${heading}</h1>
${wrong !== undefined && html`<p class="wrong" id="wrong" role="alert">${wrong}</p>`}
${told !== undefined && html`<p class="told" role="status">${told}</p>`}
${content}
</main>
<footer><p>${footer}</p></footer>
</body>
</html>
`
}

/** The field that proves that a form comes from a page of this session. */
export function token(csrf: string): Html {
  return html`<input type="hidden" name="${csrfField}" value="${csrf}">`
}

/** In words for patients; the titles of refusals are for programs. */
const words: Readonly<Partial<Record<Refused['code'], readonly [heading: string, text: string]>>> = {
  csrf_refused: ['This form could not be accepted', 'It did not come from a page of Therapy, or the page was open for too long. Go back, load the page anew and try again.'],
  too_many_requests: ['Please wait a moment', 'There were too many requests from here. Try again in a few minutes.'],
  forbidden: ['Not for this account', 'Your account may not see this page.'],
  not_found: ['Not found', 'There is no such thing here, or it is gone.'],
  method_not_allowed: ['Not a page by itself', 'This address is used by a form on another page. Begin at the first page.'],
  invalid_input: ['Something in the form is not right', 'Go back and look through what you filled in.'],
  malformed_request: ['Your browser sent something that is not taken here', 'Delete the cookies of this site and of others under the same name in your browser, and sign in again.'],
  busy: ['Please wait a moment', 'Many people are signing in just now. Try again in a few seconds.'],
}

/** The page of a refusal. */
export function refusedPage(door: Realm, { code, requestId }: Refused): Html {
  const [title, text] = words[code] ?? ['That did not work', 'Something went wrong on our side. Nothing was changed; try again in a moment.']
  return frame(door, { title, content: html`<section class="card"><p>${text}</p><p><a class="button" href="/">To the first page</a></p><p class="fine">If you write to us about it, name the request <code>${requestId}</code>.</p></section>` })
}
