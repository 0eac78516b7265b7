import type { Statement } from '../pg.ts'
import type { BlindIndex } from '../tables.ts'

/**
 * Before an address is written to an account while its blind index has two versions: takes the address until the end of
 * the transaction. Fails with already_exists when an account other than the caller's own has it under any version.
 * @param indexes every version, as `columns.lookup` gives them
 */
export function claimEmail(indexes: readonly BlindIndex[]): Statement {
  return { name: 'redoubt_claim_email', text: 'select guard.claim_email($1)', values: [indexes] }
}
