import type { Column, Tables } from '../tables.ts'

/** Any key that contains one of these hides its value: newPassword, refresh_token, stripeSecret, Set-Cookie. */
const anywhere = [
  'password', 'passwd', 'passphrase', 'passcode', 'secret', 'token', 'authorization', 'cookie', 'credential', 'apikey',
  'privatekey', 'signingkey', 'encryptionkey', 'sessionkey', 'rootkey', 'datakey', 'wrappedkey', 'jwt', 'csrf',
  'cardnumber', 'accountnumber', 'securitycode', 'onetimecode', 'verificationcode', 'databaseurl', 'connectionstring',
]
/** A key hides its value when one of its words (camelCase, dashes, underscores) is one of these. */
const words = new Set(['otp', 'pin', 'pan', 'cvv', 'cvc', 'cvv2', 'cvc2', 'iban', 'totp', 'bearer', 'dob', 'ssn', 'pwd', 'email', 'mail'])
/** Too common inside other names: only the whole key counts (`code` hides, `statusCode` does not). */
const whole = ['code', 'auth', 'pass', 'track1', 'track2', 'sid', 'birthday', 'dateofbirth', 'proxyauthorization']

/** Lower case without separators, so that first_name, firstName and First-Name are one name. */
function flat(key: string): string {
  return key.replace(/[^A-Za-z0-9]/g, '').toLowerCase()
}

function isPersonal(column: Column): boolean {
  if (column.kind !== 'plain') return true
  return column.dataClass === 'PII' || column.dataClass === 'CRED'
}

/**
 * Decides by a key's name whether its value may stand in a log line. The names of sealed, personal and credential
 * columns come from the declaration of the tables, with and without `_enc` and `_bidx`; there is no second list.
 * @param tables the app's declaration; what it adds later is hidden without a change here
 */
export function hiddenNames(tables: Tables | null): (key: string) => boolean {
  const exact = new Set(whole)
  for (const table of Object.values(tables?.tables ?? {})) {
    for (const [name, column] of Object.entries(table.columns)) {
      if (!isPersonal(column)) continue
      exact.add(flat(name))
      exact.add(flat(name.replace(/_(?:enc|bidx)$/, '')))
    }
  }
  return (key) => {
    const name = flat(key)
    if (exact.has(name) || anywhere.some((part) => name.includes(part))) return true
    return key.replace(/([a-z0-9])([A-Z])/g, '$1 $2').toLowerCase().split(/[^a-z0-9]+/).some((word) => words.has(word))
  }
}
