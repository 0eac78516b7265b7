// Passkeys for the forms that ask for one. Everything else on the pages works without a script.
'use strict'

const supported = typeof PublicKeyCredential === 'function' && typeof PublicKeyCredential.parseRequestOptionsFromJSON === 'function'
// The server takes an answer to a question for five minutes.
const goodFor = 4 * 60_000

// Under another name than that of the passkeys, such as an address in numbers, the browser would refuse.
function ours({ rpId, rp }) {
  const name = rpId ?? rp.id
  return location.hostname === name || location.hostname.endsWith(`.${name}`)
}

// What the page asked with, or anew what `data-fresh` gives, once that is too old.
function questionOf(form) {
  let text = String(form.dataset.options)
  let asked = Date.now()
  return async () => {
    if (form.dataset.fresh === undefined || Date.now() - asked < goodFor) return text
    const response = await fetch(form.dataset.fresh, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' })
    if (!response.ok) return text
    text = await response.text()
    asked = Date.now()
    return text
  }
}

function answerTo(form, text, more) {
  const options = JSON.parse(text)
  return form.dataset.passkey === 'create'
    ? navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
    : navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options), ...more })
}

for (const form of supported ? document.querySelectorAll('form[data-passkey]') : []) {
  const field = form.elements.namedItem('response')
  const status = form.querySelector('[role=status]')
  const button = form.querySelector('button')
  if (!ours(JSON.parse(form.dataset.options))) continue
  const question = questionOf(form)
  // The offer among what the browser fills the address in with; it waits until one is chosen there.
  let offering = new AbortController()

  async function send(more) {
    field.value = JSON.stringify((await answerTo(form, await question(), more)).toJSON())
    form.submit()
  }

  async function offer() {
    offering.abort()
    offering = new AbortController()
    const { signal } = offering
    // Whatever becomes of it, the password and the button are there.
    if (form.dataset.fresh === undefined || !(await PublicKeyCredential.isConditionalMediationAvailable?.())) return
    await send({ mediation: 'conditional', signal }).catch(() => undefined)
  }

  form.hidden = false
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    button.disabled = true
    status.textContent = 'Your browser asks for the passkey …'
    // A browser asks one question at a time.
    offering.abort()
    try {
      await send()
    } catch {
      // Declined, timed out, or none on this device: browsers do not say which, and neither could we do anything else.
      status.textContent = 'No passkey was used. Try again, or choose another way.'
      button.disabled = false
      void offer()
    }
  })
  // Also back from the next page, where the browser shows this one as it was left.
  window.addEventListener('pageshow', () => {
    field.value = ''
    status.textContent = ''
    button.disabled = false
    void offer()
  })
  setInterval(() => button.disabled || document.hidden || offer(), goodFor)
  document.addEventListener('visibilitychange', () => button.disabled || document.hidden || offer())
}

// What a page that was left open longer than its access token lives asks, it asks once more behind the session's next one.
async function ask(path, body, csrf) {
  const send = (to, text) => fetch(to, { method: 'POST', headers: { 'Content-Type': 'application/json', 'X-CSRF-Token': csrf }, body: text })
  const response = await send(path, body)
  if (response.status !== 401) return response
  const renewed = await send('/api/auth/refresh', '{}')
  if (renewed.ok) return send(path, body)
  if (renewed.status === 401) location.assign('/sign-in')
  return renewed
}

// A fresh proof within another form: the question is made for that one thing, and only when it is asked for.
for (const box of supported ? document.querySelectorAll('[data-step-up]') : []) {
  const { form } = box.querySelector('button')
  const code = form.querySelector('input[name=proof]:not([type=hidden])')
  const field = box.querySelector('input')
  const button = box.querySelector('button')
  const status = box.querySelector('[role=status]')

  function turn(toPasskey) {
    code.disabled = toPasskey
    field.disabled = !toPasskey
    button.disabled = toPasskey
  }

  box.hidden = false
  button.addEventListener('click', async () => {
    turn(true)
    // All the other fields have to be there first.
    if (!form.reportValidity()) return turn(false)
    status.textContent = 'Your browser asks for the passkey …'
    try {
      const response = await ask('/api/auth/step-up/options', box.dataset.stepUp, form.elements.namedItem('csrf_token').value)
      if (!response.ok) throw new Error('no question')
      const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(await response.json())
      field.value = JSON.stringify((await navigator.credentials.get({ publicKey })).toJSON())
      form.submit()
    } catch {
      status.textContent = 'No passkey was used. Try again, load the page anew, or use a code.'
      turn(false)
    }
  })
  window.addEventListener('pageshow', () => {
    field.value = ''
    status.textContent = ''
    turn(false)
  })
}
