import { newId } from 'redoubt/bytes'
import { alone } from 'redoubt/cli/embedded/users'
import { Refusal } from 'redoubt/errors'
import { defaultHome, makeHome, openDevelopment, type Development } from './development.ts'
import { complain, exitCodes, run, say, settingsFrom } from './hands.ts'
import { openService, serviceSettings } from './service.ts'
import { verifyTherapist } from './verification.ts'

const help = `npm run therapy -- <command>

  verify-therapist <e-mail>   marks a therapist's licence as verified, so that patients find and book them

Works on DATABASE_URL and KEYS_DATABASE_URL, or without them on the embedded server of npm start.`

run('therapy', async () => {
  const [command, address, ...rest] = process.argv.slice(2)
  if (command === '--help') return say(help)
  if (command !== 'verify-therapist' || address === undefined || rest.length > 0) {
    complain(help)
    process.exitCode = exitCodes.refused
    return
  }
  const development = process.env['DATABASE_URL'] === undefined ? await embedded(process.env['REDOUBT_HOME'] ?? defaultHome) : undefined
  try {
    const settings = settingsFrom({ ...process.env, ...development?.env })
    const service = await openService({ ...serviceSettings(settings, process.env, () => undefined), poolSize: 1 })
    try {
      say(`verified ${await verifyTherapist(service.app, { requestId: newId(), address: null }, address)}`)
    } catch (error) {
      if (!(error instanceof Refusal) || error.code !== 'not_found') throw error
      complain('therapy verify-therapist: nothing was changed: no account has this address, or it is not a therapist’s, or they are verified already')
      process.exitCode = exitCodes.failed
    } finally {
      await service.close()
    }
  } finally {
    await development?.stop()
  }
})

/** Not while a start prepares the same data. */
async function embedded(home: string): Promise<Development> {
  await makeHome(home)
  return alone(home, () => openDevelopment({ home, emit: () => undefined }))
}
