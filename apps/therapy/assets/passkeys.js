// Passkeys for the forms that ask for one. Everything else on the pages works without a script.
'use strict'

const supported = typeof PublicKeyCredential === 'function' && typeof PublicKeyCredential.parseRequestOptionsFromJSON === 'function'

// Under another name than that of the passkeys, such as an address in numbers, the browser would refuse.
function ours({ rpId, rp }) {
  const name = rpId ?? rp.id
  return location.hostname === name || location.hostname.endsWith(`.${name}`)
}

async function answer(form, options) {
  const credential = form.dataset.passkey === 'create'
    ? await navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options) })
    : await navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options) })
  return JSON.stringify(credential.toJSON())
}

for (const form of supported ? document.querySelectorAll('form[data-passkey]') : []) {
  const field = form.elements.namedItem('response')
  const status = form.querySelector('[role=status]')
  const button = form.querySelector('button')
  const options = JSON.parse(form.dataset.options)
  if (!ours(options)) continue
  form.hidden = false
  form.addEventListener('submit', async (event) => {
    event.preventDefault()
    button.disabled = true
    status.textContent = 'Your browser asks for the passkey …'
    try {
      field.value = await answer(form, options)
      form.submit()
    } catch {
      // Declined, timed out, or none on this device: browsers do not say which, and neither could we do anything else.
      status.textContent = 'No passkey was used. Try again, or choose another way.'
      button.disabled = false
    }
  })
  // Back from the next page, the browser shows this one as it was left.
  window.addEventListener('pageshow', () => {
    field.value = ''
    status.textContent = ''
    button.disabled = false
  })
}
