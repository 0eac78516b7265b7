/**
 * Deletes registrations that nobody confirmed within seven days, with their codes, their mail, and the keys they were
 * sealed under, at most $1; for the worker's sweep. What the app's own tables hold of them goes by a BEFORE DELETE trigger
 * of the app on redoubt.users: without one, a foreign key keeps the account.
 */
export const forgetRegistrations = {
  name: 'redoubt_forget_registrations',
  text: 'select guard.forget_registrations($1) as gone',
} as const
