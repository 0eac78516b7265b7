import { controlActions } from 'redoubt/controls'
import { accountActions } from 'redoubt/tokens/accounts'
import { administrationActions } from 'redoubt/tokens/administration'
import { clientActions } from 'redoubt/tokens/clients'
import { codeActions } from 'redoubt/tokens/codes'
import { factorActions } from 'redoubt/tokens/factors'
import { sessionActions } from 'redoubt/tokens/sessions'
import type { Actions } from 'redoubt/transaction'

/**
 * Everything that can be done in Therapy, by the name it has in `audit_logs.action`. All that touches a person's data
 * is audited; reading public profiles is not. `keep` is the retention class of the entry: access (2 years) for reads
 * and sign-ins, change (7 years) for what alters data or rights.
 */
export const actions = {
  ...sessionActions,
  ...codeActions,
  ...factorActions,
  ...clientActions,
  ...accountActions,
  ...administrationActions,
  'auth.administrator_sought': { audited: false },
  'auth.administrator_created': { audited: true, keep: 'change', purpose: 'administration' },
  'auth.administrator_recovered': { audited: true, keep: 'change', purpose: 'administration' },
  'auth.administrator_renewed': { audited: true, keep: 'change', purpose: 'administration' },
  'audit.queried': { audited: true, purpose: 'oversight' },
  ...controlActions,
  'account.viewed': { audited: true, purpose: 'account' },

  'therapist.viewed': { audited: false },
  'therapist.updated': { audited: true, keep: 'change', purpose: 'care' },
  'therapist.examined': { audited: true, purpose: 'verification' },
  'therapist.verified': { audited: true, keep: 'change', purpose: 'verification' },

  'patient.listed': { audited: true, purpose: 'care' },
  'patient.viewed': { audited: true, purpose: 'care' },
  'patient.updated': { audited: true, keep: 'change', purpose: 'care' },
  'audit.viewed': { audited: true, purpose: 'transparency' },

  'relationship.viewed': { audited: true, purpose: 'care' },
  'relationship.requested': { audited: true, keep: 'change', purpose: 'care' },
  'relationship.accepted': { audited: true, keep: 'change', purpose: 'care' },
  'relationship.ended': { audited: true, keep: 'change', purpose: 'care' },

  'consent.viewed': { audited: true, purpose: 'transparency' },
  'consent.given': { audited: true, keep: 'change', purpose: 'consent' },
  'consent.withdrawn': { audited: true, keep: 'change', purpose: 'consent' },

  'appointment.viewed': { audited: true, purpose: 'care' },
  'appointment.created': { audited: true, keep: 'change', purpose: 'care' },
  'appointment.booked': { audited: true, keep: 'change', purpose: 'care' },
  'appointment.updated': { audited: true, keep: 'change', purpose: 'care' },
  'appointment.cancelled': { audited: true, keep: 'change', purpose: 'care' },
  'appointment.completed': { audited: true, keep: 'change', purpose: 'care' },

  'note.viewed': { audited: true, purpose: 'care' },
  'note.created': { audited: true, keep: 'change', purpose: 'care' },
  'note.released': { audited: true, keep: 'change', purpose: 'care' },

  'conversation.viewed': { audited: true, purpose: 'care' },
  'message.read': { audited: true, purpose: 'care' },
  'message.sent': { audited: true, purpose: 'care' },
  'message.marked_read': { audited: true, purpose: 'care' },

  'record.viewed': { audited: true, purpose: 'care' },
  'record.created': { audited: true, keep: 'change', purpose: 'care' },
  'record.released': { audited: true, keep: 'change', purpose: 'care' },
  'record.corrected': { audited: true, keep: 'change', purpose: 'care' },
} as const satisfies Actions
