import { systemCaller } from './context.ts'
import type { Visitor } from './context.ts'
import { Refusal } from './errors.ts'
import type { ControlName } from './events.ts'
import { transaction } from './transaction.ts'
import type { Actions, Gate } from './transaction.ts'

/** off: not asked. report: the request passes and an event names the control. enforce: it is refused, with the same event. */
export type ControlMode = 'off' | 'report' | 'enforce'
export type ControlModes = Readonly<Record<ControlName, ControlMode>>

export const controlNames: readonly ControlName[] = ['csrf', 'fetch-metadata', 'origin', 'csp', 'https', 'limits']

/** The actions of this file, to be spread into an app's table of actions. */
export const controlActions = {
  'control.compared': { audited: false },
  'control.mode_changed': { audited: true, keep: 'change', purpose: 'security' },
} as const satisfies Actions

export type ModeChange = { readonly control: ControlName; readonly from: ControlMode; readonly to: ControlMode }

/**
 * Compares the modes with those of the last start and leaves an entry for each that differs: who weakens a control by its
 * configuration shall be seen by those who read the audit, and not only by those who read the log. Every instance does it
 * at its start; where several start at once, one of them writes the entry.
 * @param tenant the isolation scope of the service
 * @param usual what a control did that was never changed; default: enforce
 * @returns the changes this call recorded
 * @throws Refusal when the database cannot be used: a start that cannot be recorded does not happen
 */
export async function recordModes(
  gate: Gate<typeof controlActions & Actions>, tenant: string, visitor: Visitor, modes: ControlModes, usual: Partial<ControlModes> = {},
): Promise<readonly ModeChange[]> {
  const caller = systemCaller('controls', tenant, visitor)
  const rows = await transaction.one<typeof gate.actions, { readonly name: string; readonly mode: ControlMode }>(gate, caller, 'control.compared', {
    name: 'redoubt.control_modes', text: 'select name, mode from redoubt.control_modes', values: [],
  })
  const last = new Map(rows.map(({ name, mode }) => [name, mode]))
  const changes = controlNames.map((control) => ({ control, from: last.get(control) ?? usual[control] ?? 'enforce', to: modes[control] })).filter(({ from, to }) => from !== to)
  const done: ModeChange[] = []
  for (const change of changes) if (await record(gate, caller, change)) done.push(change)
  return done
}

async function record(gate: Gate<typeof controlActions & Actions>, caller: ReturnType<typeof systemCaller>, change: ModeChange): Promise<boolean> {
  const { control, from, to } = change
  try {
    await transaction(gate, caller, { action: 'control.mode_changed', resource: { type: 'control', id: control }, metadata: { from, to } }, async (tx) => {
      const written = await tx.query({
        name: 'redoubt.set_control_mode',
        text: `insert into redoubt.control_modes as c (name, tenant, mode) values ($1, $2, $3)
          on conflict (name) do update set mode = excluded.mode, changed_at = now() where c.mode <> excluded.mode returning c.name`,
        values: [control, caller.tenant, to],
      })
      if (written.length === 0) throw new Refusal('conflict')
    })
    return true
  } catch (error) {
    // Another instance was first; the entry of this attempt says so.
    if (error instanceof Refusal && error.code === 'conflict') return false
    throw error
  }
}
