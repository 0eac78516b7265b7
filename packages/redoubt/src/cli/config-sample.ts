import { appOptions, settingsOf } from './app.ts'
import { asksForHelp, exits, type Io } from './io.ts'

const usage = `redoubt config sample --app <folder>

Prints the names of all settings with what they are for, and no value: the app's .env.example.
`

/** `redoubt config sample`: the sample is made from the spec, so that it cannot fall behind it. */
export async function run(args: readonly string[], io: Io): Promise<number> {
  if (asksForHelp(args)) {
    io.out(usage)
    return exits.ok
  }
  const { app } = appOptions(args)
  const { settings } = await settingsOf(io, app)
  io.out('# Names only. Values come from the environment or from mounted files (NAME_FILE=/run/secrets/name).\n')
  for (const [name, { about, class: kind, owner, rotateDays, required }] of Object.entries(settings)) {
    const when = required === 'always' ? 'required' : required === 'production' ? 'required in production' : 'optional'
    const rotation = rotateDays === null ? '' : `, replaced every ${rotateDays === 1 ? 'day' : `${rotateDays} days`}`
    io.out(`\n# ${about}\n# ${kind}, ${when}, owner: ${owner}${rotation}\n${required === 'never' ? '# ' : ''}${name}=\n`)
  }
  return exits.ok
}
