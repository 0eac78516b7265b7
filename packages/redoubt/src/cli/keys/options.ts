import { parseArgs, type ParseArgsConfig } from 'node:util'
import { UsageProblem } from '../io.ts'

type Options = NonNullable<ParseArgsConfig['options']>
type Values<O extends Options> = { readonly [K in keyof O]?: O[K]['type'] extends 'boolean' ? boolean : string }

/**
 * The options of a command on keys, and the one word it takes.
 * @param words `none` for a command without a word
 * @throws UsageProblem
 */
export function optionsOf<const O extends Options>(args: readonly string[], options: O, words: 'one' | 'none' = 'one'): { readonly values: Values<O>; readonly word: string } {
  let parsed
  try {
    parsed = parseArgs({ args: [...args], allowPositionals: true, options, strict: true })
  } catch (error) {
    throw new UsageProblem(error instanceof Error ? error.message : 'wrong options', { cause: error })
  }
  const { positionals } = parsed
  const expected = words === 'one' ? 1 : 0
  if (positionals.length !== expected) throw new UsageProblem(words === 'one' ? 'say which key: redoubt keys --help' : `${positionals[0] ?? ''} is not an option`)
  return { values: parsed.values, word: positionals[0] ?? '' }
}
