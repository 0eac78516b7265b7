import { codeMinutes } from 'redoubt/tokens/codes'

/** What people are told by mail. No names, no words of health, no links: whoever sees the screen learns that there is an account. */
export type Text = { readonly subject: string; readonly text: string }

const sign = '\n\nTherapy\n\nThis address cannot be answered.\n'
/** "12345678" as people read it aloud. */
const spaced = (code: string): string => code.replace(/(\d{4})(?=\d)/, '$1 ')

/** Minutes in which an address must be shown to be somebody's, and days in which its change can be taken back. */
export const verifyMinutes = 24 * 60
export const undoDays = 7

export const mailTexts = {
  trial: (): Text => ({
    subject: 'Test message',
    text: `Hello,\n\nthis message was sent to see whether mail arrives. It does. Nothing is to be done.${sign}`,
  }),
  verify: (code: string): Text => ({
    subject: 'Confirm your address',
    text: `Hello,\n\nyour code is\n\n    ${spaced(code)}\n\nEnter it where you registered, within one day. Nobody of ours will ever ask you for it.\n\nYou did not register? Then do nothing: without the code there is no account.${sign}`,
  }),
  taken: (): Text => ({
    subject: 'You have an account already',
    text: `Hello,\n\nsomebody, perhaps you, wanted to use this address for an account. It has one already: sign in, or ask for a new password.\n\nIt was not you? Then do nothing: nobody was told that you have an account.${sign}`,
  }),
  reset: (code: string): Text => ({
    subject: 'Your code for a new password',
    text: `Hello,\n\nyour code is\n\n    ${spaced(code)}\n\nEnter it where you asked for a new password, within ${codeMinutes} minutes. Nobody of ours will ever ask you for it.\n\nIt was not you? Then do nothing: your password stays as it is.${sign}`,
  }),
  passwordChanged: (at: Date): Text => ({
    subject: 'Your password was changed',
    text: `Hello,\n\nyour password was changed on ${when(at)}. Other devices were signed out.\n\nIt was not you? Ask for a new password at once; that ends every session.${sign}`,
  }),
  emailChange: (code: string): Text => ({
    subject: 'Confirm your new address',
    text: `Hello,\n\nyour code is\n\n    ${spaced(code)}\n\nEnter it where you asked to change your address, within ${codeMinutes} minutes. Nobody of ours will ever ask you for it.${sign}`,
  }),
  emailChanged: (at: Date, undo: string): Text => ({
    subject: 'Your address was changed',
    text: `Hello,\n\non ${when(at)} another address was set for your account. Mail goes there from now on.\n\nIt was not you? For ${undoDays} days you can take it back, on the page for forgotten passwords, with this token, which also signs out every device and voids the password:\n\n    ${undo}${sign}`,
  }),
  emailRestored: (at: Date): Text => ({
    subject: 'Your address is yours again',
    text: `Hello,\n\non ${when(at)} the change of your address was taken back. Every device was signed out and the password is void: ask for a new one.${sign}`,
  }),
  newDevice: (at: Date, device: string): Text => ({
    subject: 'New sign-in',
    text: `Hello,\n\non ${when(at)} somebody signed in to your account with a device we have not seen before: ${device}.\n\nIt was not you? Change your password; that signs out every other device.${sign}`,
  }),
  factorChanged: (at: Date): Text => ({
    subject: 'Your sign-in was changed',
    text: `Hello,\n\non ${when(at)} a second step of your sign-in was set up, removed, or given new recovery codes. Other devices were signed out.\n\nIt was not you? Change your password, and look at the second steps of your account.${sign}`,
  }),
  recoveryCodeUsed: (at: Date): Text => ({
    subject: 'A recovery code was used',
    text: `Hello,\n\non ${when(at)} one of your recovery codes was used. Each works once.\n\nIt was not you? Change your password, and have new recovery codes made.${sign}`,
  }),
  factorReset: (at: string): Text => ({
    subject: 'Your second step is to be removed',
    text: `Hello,\n\nat somebody's request, perhaps yours, an administrator has asked for the second step of your sign-in to be removed. From ${when(new Date(at))} on your password alone will be enough once, to set up a new one.\n\nIt was not you? Sign in with your second step before then: that ends the request.${sign}`,
  }),
  factorsReset: (at: Date): Text => ({
    subject: 'Your second step was removed',
    text: `Hello,\n\non ${when(at)} the second step of your sign-in and your recovery codes were removed, as was asked. Other devices were signed out. Set up a new second step now.\n\nIt was not you? Ask for a new password at once, and call us.${sign}`,
  }),
  administratorRecovered: (at: Date): Text => ({
    subject: 'Your account begins anew',
    text: `Hello,\n\non ${when(at)} whoever operates this service removed the password, the second step and the recovery codes of your account, and signed it out everywhere. They have the password to begin with.\n\nYou did not ask them to? Call them at once.${sign}`,
  }),
} as const

function when(at: Date): string {
  return `${at.toISOString().slice(0, 16).replace('T', ' at ')} UTC`
}
