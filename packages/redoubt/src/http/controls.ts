import type { ControlName, Emit } from '../events.ts'
import { controlNames } from '../controls.ts'
import type { ControlMode, ControlModes } from '../controls.ts'
import { onlyKnown } from './options.ts'

export type Controls = {
  readonly modes: ControlModes
  /**
   * Called where a request breaks a rule of a control: tells of it, unless the control is off.
   * @param rule a word of ours, never a value
   * @returns true when the request is to be refused
   */
  refuses(control: ControlName, requestId: string, rule: string): boolean
}

/**
 * The modes of all controls: whatever is not named enforces.
 * @param modes a control is rolled out as report first, watched in the log, then left to enforce
 * @param options insecureOff: true permits `off`, for development and for the hour in which nothing else helps
 * @throws TypeError for an unknown control or mode, and for `off` without `insecureOff`
 */
export function openControls(modes: Partial<ControlModes>, options: { readonly emit: Emit; readonly insecureOff?: boolean }): Controls {
  onlyKnown('openControls', modes, controlNames)
  onlyKnown('openControls', options, ['emit', 'insecureOff'])
  const { emit, insecureOff = false } = options
  if (typeof emit !== 'function') throw new TypeError('openControls: emit must be a function')
  const all = Object.fromEntries(controlNames.map((name) => [name, modes[name] ?? 'enforce'])) as Record<ControlName, ControlMode>
  for (const [name, mode] of Object.entries(all)) {
    if (!['off', 'report', 'enforce'].includes(mode)) throw new TypeError(`openControls: ${name} must be off, report or enforce`)
    if (mode === 'off' && !insecureOff) throw new TypeError(`openControls: ${name} cannot be off unless insecureOff is set`)
  }
  return Object.freeze<Controls>({
    modes: Object.freeze(all),
    refuses(control, requestId, rule) {
      const mode = all[control]
      if (mode === 'off') return false
      emit({ type: 'security.control_triggered', requestId, control, mode, rule })
      return mode === 'enforce'
    },
  })
}
