import type { Pool } from '../pg.ts'
import type { Column, Tables } from '../tables.ts'
import { catalogueQueries } from './catalogue.ts'
import { policyFindings, type PolicyRow } from './policies.ts'

/** Something that makes a guarantee untrue, and what to do about it. */
export type Finding = { readonly what: string; readonly todo: string }

type ColumnRow = { readonly table_name: string; readonly column_name: string; readonly type: string; readonly nullable: boolean; readonly generated: boolean }
type TableRow = { readonly name: string; readonly kind: string; readonly enabled: boolean; readonly forced: boolean; readonly commands: string; readonly invoker: boolean; readonly owned_by_runtime: boolean; readonly reached: boolean }

/** The definer functions of the kernel; an app adds its own. Any other one is a finding. */
const kernelDefiners: readonly string[] = [
  'guard.caller', 'guard.actor', 'guard.role', 'guard.tenant', 'guard.install_caller_key', 'guard.drop_caller_key',
  'guard.sign_in_lookup', 'guard.open_session', 'guard.bind_session', 'guard.end_own_session', 'guard.refresh_session', 'guard.refresh_sessions', 'guard.refuse_session', 'guard.end_session',
  'guard.end_other_sessions', 'guard.end_sessions_of', 'guard.list_accounts',
  'guard.set_account_status', 'guard.set_account_role', 'guard.find_administrator', 'guard.renew_enrolment', 'guard.read_audit', 'guard.finish', 'guard.hold_keys', 'guard.claim_email',
  'guard.put_mail', 'guard.mail_again', 'guard.mail_recipient', 'guard.code_account', 'guard.claim_for', 'guard.verify_email', 'guard.reset_password', 'guard.change_password',
  'guard.change_email', 'guard.undo_email', 'guard.is_new_device',
  'guard.rehash_password', 'guard.code_rule', 'guard.issue_code', 'guard.try_code', 'guard.redeem_code',
  'guard.has_factor', 'guard.factor_proven', 'guard.stepped_up', 'guard.spend_proof', 'guard.count_factor_try', 'guard.sign_in_factors',
  'guard.pending_factors', 'guard.complete_pending', 'guard.passkey_lookup', 'guard.complete_passkey', 'guard.count_own_try', 'guard.prove_own',
  'guard.redeem_step_up', 'guard.enrol_factor', 'guard.confirm_factor', 'guard.remove_factor', 'guard.replace_recovery_codes', 'guard.end_recovery_codes', 'guard.forget_registrations',
  'guard.request_factor_reset', 'guard.cancel_factor_reset', 'guard.factor_was_used', 'guard.factor_reset_due', 'guard.apply_factor_reset',
  'guard.recovery_holds', 'guard.recover_administrator',
  'guard.open_client_session', 'guard.bound_api_client', 'guard.rotate_api_client', 'guard.revoke_api_client',
]

function typeOf(column: Column): string {
  return column.kind === 'plain' || column.kind === 'legacy' ? column.type : 'bytea'
}

/** Compares the declared columns with the catalogue's. */
function columnFindings(tables: Tables, rows: readonly ColumnRow[]): readonly Finding[] {
  const findings: Finding[] = []
  for (const [name, table] of Object.entries(tables.tables)) {
    const present = rows.filter((row) => row.table_name === name)
    if (present.length === 0) {
      findings.push({ what: `table ${name} is declared but not in the database`, todo: 'run `redoubt migrate`, or take it out of tables.ts' })
      continue
    }
    for (const row of present) {
      const column = table.columns[row.column_name]
      const where = `${name}.${row.column_name}`
      if (column === undefined) {
        findings.push({ what: `column ${where} is not classified`, todo: 'add it to tables.ts with its data class' })
        continue
      }
      if (row.type !== typeOf(column)) findings.push({ what: `column ${where} is ${row.type} in the database and ${typeOf(column)} in tables.ts`, todo: 'make them agree' })
      if (row.nullable !== (column.nullable ?? false)) findings.push({ what: `column ${where} is ${row.nullable ? 'nullable' : 'not null'} in the database only`, todo: 'make tables.ts and the database agree' })
    }
    for (const columnName of Object.keys(table.columns)) {
      if (!present.some((row) => row.column_name === columnName)) findings.push({ what: `column ${name}.${columnName} is declared but not in the database`, todo: 'run `redoubt migrate`, or take it out of tables.ts' })
    }
  }
  return findings
}

/** Row security of every relation in the service's schemas; classified ones need a policy for each command. */
function tableFindings(tables: Tables, rows: readonly TableRow[]): readonly Finding[] {
  const findings: Finding[] = []
  for (const row of rows) {
    const classified = row.name in tables.tables
    if (row.kind === 'm') findings.push({ what: `materialised view ${row.name} copies rows out of their policies`, todo: 'drop it' })
    else if (row.kind === 'v') {
      if (!row.invoker) findings.push({ what: `view ${row.name} reads with its owner's rights`, todo: `alter view ${row.name} set (security_invoker = true)` })
    } else {
      if (!classified && row.reached && row.name !== 'redoubt.schema_migrations') findings.push({ what: `table ${row.name} is not declared, and the runtime role may touch it`, todo: 'declare it in tables.ts, or revoke all on it' })
      if (!row.enabled || !row.forced) findings.push({ what: `table ${row.name} has no forced row security`, todo: `alter table ${row.name} enable row level security, force row level security` })
      if (classified && row.commands.includes('*')) findings.push({ what: `table ${row.name} has a policy FOR ALL`, todo: 'write one policy per command: its USING would serve as the check of writes' })
      for (const [letter, command] of [['r', 'SELECT'], ['a', 'INSERT'], ['w', 'UPDATE'], ['d', 'DELETE']] as const) {
        if (classified && !row.commands.includes(letter)) findings.push({ what: `table ${row.name} has no policy for ${command}`, todo: 'write one, with (false) where nobody may' })
      }
    }
    if (row.owned_by_runtime) findings.push({ what: `${row.name} belongs to the runtime role`, todo: 'give it to the owner role' })
  }
  return findings
}

/**
 * Whom the server took this login for. Another role's passes the other questions where it may do less, and serves
 * nobody then; or it may do more than was meant for this door.
 */
async function loginFindings(pool: Pool, expected: string): Promise<readonly Finding[]> {
  const [row] = await pool.query<{ readonly login: string }>({ text: 'select session_user::text as login', values: [] })
  return row?.login === expected ? [] : [{ what: `this login is ${row?.login ?? 'unknown'}, not ${expected}`, todo: `give the connection string of ${expected}` }]
}

/**
 * Holds the live catalogue against the declaration and the rules of guarantees §1. The start refuses on any finding.
 * @param pool pool of the app role: what is asked is what that role is and may
 * @param definers definer functions of the app, as schema.name
 */
export async function checkDatabase(pool: Pool, tables: Tables, definers: readonly string[]): Promise<readonly Finding[]> {
  const schemas = [...new Set(['redoubt', 'guard', 'keys', ...Object.keys(tables.tables).map((name) => name.split('.')[0] ?? '')])]
  const ask = <R>(text: string): Promise<readonly R[]> => pool.query<R>({ text, values: [schemas] })
  const columns = await ask<ColumnRow>(catalogueQueries.columns)
  const relations = await ask<TableRow>(catalogueQueries.relations)
  const findings = [...(await loginFindings(pool, `${tables.service}_app`)), ...columnFindings(tables, columns), ...tableFindings(tables, relations)]
  for (const query of [catalogueQueries.role, catalogueQueries.grants, catalogueQueries.elsewhere, catalogueQueries.cascades, catalogueQueries.publicRights, catalogueQueries.settings, catalogueQueries.jobs]) {
    findings.push(...(await ask<Finding>(query)))
  }
  const known = new Set([...kernelDefiners, ...definers])
  const policies = await ask<PolicyRow>(catalogueQueries.policies)
  findings.push(...policyFindings(policies, new Set(['guard.actor', 'guard.role', 'guard.tenant', ...definers]), new Set(Object.keys(tables.tables))))
  for (const row of await ask<{ readonly name: string; readonly owner: string; readonly pinned: boolean; readonly for_app: boolean }>(catalogueQueries.definers)) {
    if (row.for_app && !known.has(row.name)) findings.push({ what: `definer function ${row.name} is not on the list`, todo: 'name it in the app’s definers after review, or drop it' })
    if (row.owner !== `${tables.service}_guard`) findings.push({ what: `definer function ${row.name} belongs to ${row.owner}`, todo: 'give it to the guard role' })
    if (!row.pinned) findings.push({ what: `definer function ${row.name} has no fixed search_path`, todo: 'set search_path = pg_catalog, pg_temp' })
  }
  return findings
}

/**
 * What must hold of every login beside the app's (keys, worker): an ordinary role, member of none, on a server that
 * logs no parameters. Signing keys and sealed values travel as parameters of these logins too.
 * @param pool pool of that login
 * @param expected the role it must be, such as `therapy_keys`
 */
export async function checkLogin(pool: Pool, expected: string): Promise<readonly Finding[]> {
  const ask = (text: string): Promise<readonly Finding[]> => pool.query<Finding>({ text, values: [[]] })
  return [...(await loginFindings(pool, expected)), ...(await ask(catalogueQueries.role)), ...(await ask(catalogueQueries.settings))]
}

/** What is so of the server shows to each login that is asked, and is told once. */
function each(findings: readonly Finding[]): readonly Finding[] {
  return [...new Map(findings.map((finding) => [`${finding.what}: ${finding.todo}`, finding])).values()]
}

/** The start's refusal: every finding at once. */
export class DatabaseRefused extends Error {
  override readonly name = 'DatabaseRefused'
  readonly findings: readonly Finding[]

  constructor(findings: readonly Finding[]) {
    const told = each(findings)
    super(`the database does not keep the guarantees:\n${told.map(({ what, todo }) => `  - ${what}: ${todo}`).join('\n')}`)
    this.findings = told
  }
}
