import { Refusal } from 'redoubt/errors'
import { html, type Html } from 'redoubt/http/html'
import { page, redirect, show } from 'redoubt/http/page'
import type { Route } from 'redoubt/http/route'
import { stepCookie } from 'redoubt/http/step-cookie'
import { passwordLength, refuseWeak } from 'redoubt/tokens/password'
import { z } from 'zod'
import type { App } from '../app.ts'
import { askForAccount, patientBody } from '../registration.ts'
import { verifyMinutes } from '../mail-texts.ts'
import { askForMailAgain, digits, handle, showAddress } from '../recovery.ts'
import { busySaid, field, lookBelow, mailedCodeField, newPasswordField, passwordSlip, readFields, type Slips } from './field.ts'
import { frame } from './frame.ts'

const typed = z.strictObject({ first_name: z.string(), last_name: z.string(), dob: z.string(), phone: z.string(), email: z.string(), password: z.string().max(4 * passwordLength.most) })
type Typed = z.output<typeof typed>
/** The password is looked at by itself: its rules are more than a length. */
const person = patientBody.omit({ password: true, role: true })
const words: Slips = {
  first_name: 'Enter your first name.', last_name: 'Enter your last name.', dob: 'Enter the day you were born.',
  phone: 'Enter a number with its country code, such as +49 30 123456, or leave this empty.', email: 'Enter your e-mail address, such as name@example.org.',
}

/**
 * An account for a patient: the form, and the code that was mailed. Whether the address has an account already is told to
 * its owner by mail, and to nobody here: every answer is the same for both.
 */
export function registerPages(app: App, service: string): readonly Route[] {
  const waiting = stepCookie(service, 'register')
  const requestOf = (text: string | undefined): string | undefined => handle.safeParse(text).data
  return [
    page({ method: 'GET', path: '/register', summary: 'Ask for an account', access: 'public', handle: () => registerPage(app, {}) }),
    page({
      method: 'POST', path: '/register', summary: 'Asks for an account', access: 'public', form: typed,
      handle: async ({ headers, visitor, form }) => {
        const { password, phone, ...rest } = form
        const { data, slips } = readFields(person, { ...rest, ...(phone.trim() === '' ? {} : { phone }) }, words)
        const weak = weakness(password, [form.email, form.first_name, form.last_name])
        if (data === undefined || weak !== undefined) return show(registerPage(app, { form, wrong: lookBelow, slips: { ...slips, ...(weak === undefined ? {} : { password: weak }) } }), { status: 422 })
        try {
          const request = await askForAccount(app, { headers, visitor }, { role: 'patient', ...data, password })
          return redirect('/register/confirm', { cookies: [waiting.set(request, verifyMinutes * 60)] })
        } catch (error) {
          const wrong = busySaid(error)
          if (wrong === undefined) throw error
          return show(registerPage(app, { form, wrong }), { status: 429 })
        }
      },
    }),
    page({
      method: 'GET', path: '/register/confirm', summary: 'Confirm one’s address', access: 'public', query: z.strictObject({ note: z.literal('again').optional() }),
      handle: ({ headers, query }) => {
        if (requestOf(waiting.read(headers)) === undefined) return redirect('/register')
        return confirmPage(app, query.note === undefined ? {} : { told: 'If a code can be sent once more, it is on its way.' })
      },
    }),
    page({
      method: 'POST', path: '/register/confirm', summary: 'Confirms one’s address', access: 'public', form: z.strictObject({ code: z.string().max(60) }),
      handle: async ({ headers, visitor, form }) => {
        const request = requestOf(waiting.read(headers))
        if (request === undefined) return redirect('/register')
        const { data: code } = digits.safeParse(form.code)
        if (code === undefined) return show(confirmPage(app, { wrong: 'Enter the eight digits from the mail.' }), { status: 422 })
        try {
          await showAddress(app, visitor, { handle: request, digits: code })
          return redirect('/sign-in?note=registered', { cookies: [waiting.clear()] })
        } catch (error) {
          if (!(error instanceof Refusal)) throw error
          if (error.code === 'already_exists') return redirect('/sign-in?note=registered', { cookies: [waiting.clear()] })
          if (error.code !== 'code_refused') throw error
          return show(confirmPage(app, { wrong: 'This code is not right, or is over. After five wrong codes you have to begin anew.' }), { status: 422 })
        }
      },
    }),
    page({
      method: 'POST', path: '/register/again', summary: 'Has the code sent once more', access: 'public', form: z.strictObject({}),
      handle: async ({ headers, visitor }) => {
        const request = requestOf(waiting.read(headers))
        if (request === undefined) return redirect('/register')
        await askForMailAgain(app, visitor, request)
        return redirect('/register/confirm?note=again')
      },
    }),
  ]
}

function weakness(password: string, personal: readonly string[]): string | undefined {
  try {
    refuseWeak(password, personal)
    return undefined
  } catch (error) {
    const slip = passwordSlip(error)
    if (slip === undefined) throw error
    return slip
  }
}

function registerPage({ identity }: App, { form, wrong, slips = {} }: { readonly form?: Typed; readonly wrong?: string; readonly slips?: Slips }): Html {
  const today = new Date().toISOString().slice(0, 10)
  const of = (name: keyof Typed): { readonly name: string; readonly value: string | undefined; readonly slip: string | undefined } => ({ name, value: form?.[name], slip: slips[name] })
  return frame(identity.realm, {
    title: 'Create an account', wrong,
    content: html`<section class="card"><form method="post" action="/register">
<div class="pair"><div>${field({ ...of('first_name'), label: 'First name', autocomplete: 'given-name', most: 100, focus: form === undefined })}</div><div>${field({ ...of('last_name'), label: 'Last name', autocomplete: 'family-name', most: 100 })}</div></div>
${field({ ...of('dob'), label: 'Date of birth', type: 'date', autocomplete: 'bday', from: '1900-01-01', to: today })}
${field({ ...of('email'), label: 'E-mail address', type: 'email', autocomplete: 'username', hint: 'You sign in with it. First we send a code there.' })}
${field({ ...of('phone'), label: 'Telephone', type: 'tel', autocomplete: 'tel', most: 40, required: false })}
${newPasswordField(slips['password'])}
<button>Create the account</button>
</form></section>
<p class="beside">You have one already? <a href="/sign-in">Sign in</a></p>`,
  })
}

function confirmPage({ identity }: App, { wrong, told }: { readonly wrong?: string; readonly told?: string }): Html {
  return frame(identity.realm, {
    title: 'Confirm your address', wrong, told,
    content: html`<section class="card"><p>We have sent a mail to the address you gave. If it can have a new account, there is a code of eight digits in it, good for one day.</p>
<form method="post" action="/register/confirm">${mailedCodeField(wrong === undefined ? undefined : true)}<button>Confirm</button></form></section>
<form method="post" action="/register/again" class="beside"><button class="link">Send the mail once more</button></form>
<p class="beside"><a href="/register">Begin anew with another address</a></p>`,
  })
}
