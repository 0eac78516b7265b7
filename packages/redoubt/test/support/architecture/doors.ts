import { headOf } from './order.ts'
import { lineAt, type Source } from './source.ts'

type Place = (path: string) => boolean

const heads = (...names: readonly string[]): Place => (path) => names.includes(headOf(path) ?? '')
const file = (...names: readonly string[]): Place => (path) => names.includes(path.replace('packages/redoubt/src/', ''))
const isApp: Place = (path) => path.startsWith('apps/')
const either = (...places: readonly Place[]): Place => (path) => places.some((place) => place(path))
const hands = either(heads('cli'), isApp)

/** Packages and built-in modules that only some files may import. */
export const packageDoors: readonly (readonly [name: RegExp, may: Place, who: string])[] = [
  [/^pg(\/|$)/, heads('pg'), 'pg.ts and its folder'],
  [/^(redis|ioredis|iovalkey|@redis\/.*)(\/|$)/, heads('redis'), 'redis.ts and its folder'],
  [/^(@aws-sdk|@smithy|@azure|@google-cloud|node-vault)(\/|$)/, (path) => path.startsWith('packages/redoubt/src/kms/'), 'kms/*'],
  [/^nodemailer(\/|$)/, (path) => path.startsWith('packages/redoubt/src/mail/'), 'mail/*'],
  [/^jose(\/|$)/, heads('tokens'), 'tokens.ts and its folder'],
  [/^@node-rs\/argon2(\/|$)/, heads('tokens'), 'tokens.ts and its folder'],
  [/^pino(-.*)?(\/|$)/, heads('log'), 'log.ts and its folder'],
  [/^prom-client(\/|$)/, heads('metrics'), 'metrics.ts and its folder'],
  [/^express(\/|$)/, isApp, 'the apps'],
  [/^@nestjs(\/|$)/, isApp, 'the apps'],
  [/^node:https?2?$|^https?2?$/, either(heads('http', 'log', 'metrics', 'health', 'verify'), (path) => path.startsWith('packages/redoubt/src/kms/'), hands), 'the edge, the hands, and kms/* as a client of its key service'],
  [/^node:async_hooks$/, heads('log'), 'log.ts: the request id of a line and nothing else is ambient'],
  [/^(node:)?(child_process|cluster)$/, hands, 'the hands'],
  [/^(node:)?worker_threads$/, either(hands, file('tokens/password-threads.ts', 'tokens/password-thread.ts')), 'the hands, and the hashing of passwords'],
  [/^(node:)?(vm|inspector|repl|wasi)$/, () => false, 'nobody'],
]

/** Words of code that only some files may write. Comments and literals do not count. */
export const wordDoors: readonly (readonly [word: RegExp, may: Place, who: string])[] = [
  [/\bcreate(?:Cipher|Decipher)(?:iv)?\b/g, file('aead.ts', 'aead/legacy.ts'), 'aead.ts, and aead/legacy.ts, which only opens what older systems left'],
  [/\bprocess\.env\b/g, hands, 'the hands; the library takes the environment as an argument'],
  [/\bprocess\.(?:exit|exitCode|argv|chdir|setuid|setgid)\b/g, hands, 'the hands'],
  [/\bprocess\.std(?:out|err|in)\b/g, either(hands, heads('log')), 'the hands and the log'],
  [/\b(?:createSecretKey|createPrivateKey|generateKey(?:Pair)?(?:Sync)?|hkdf(?:Sync)?|pbkdf2(?:Sync)?|scrypt(?:Sync)?)\b/g,
    // Three that hold a key of their own kind: the caller's signature (transaction/signer), the salt of one audit
    // entry (audit/entry), and the SCRAM verifier of a database password (cli/roles).
    either(heads('kms', 'keyring'), file('aead.ts', 'transaction/signer.ts', 'audit/entry.ts', 'cli/roles.ts')), 'the keys line and aead.ts'],
  [/(?<!public|publicKey|PublicKey)\.export\(/g, heads('kms', 'keyring'), 'the keys line (public keys excepted)'],
  [/\bopenScriptConnection\b/g, either(heads('pg', 'migrate'), hands), 'migrate and the hands'],
  [/\bmkdir(?:Sync)?\([^;\n]*\brecursive\b/g, () => false, 'nobody: folder.ts makes folders, mkdir with recursive can hang'],
  [/\beval\s*\(|\bnew Function\b/g, () => false, 'nobody'],
]

/** Words inside literals that only some files may write. */
export const textDoors: readonly (readonly [text: RegExp, may: Place, who: string])[] = [
  // `do $$ begin` and function bodies are blocks of plpgsql, not transactions.
  [/^\s*(?:begin|start transaction|savepoint \w+)\s*(?:;|$)|;\s*(?:begin|start transaction)\s*;/i, heads('transaction', 'migrate'), 'the gate, and migrate for its scripts'],
  [/^\s*(?:commit|rollback)\s*(?:;|$)|;\s*(?:commit|rollback)\s*(?:;|$)/i, heads('transaction', 'migrate'), 'the gate, and migrate for its scripts'],
  [/^\s*copy\s.+\s(?:from|to)\s/i, () => false, 'nobody: COPY runs past the gate'],
]

/** On the line of the facts nothing reads a clock or does I/O: what they answer depends on their arguments alone. */
const impureModules = /^(node:)?(fs|fs\/promises|net|tls|dgram|dns|dns\/promises|http|https|http2|os|timers|timers\/promises|perf_hooks|process|child_process)$/
const impureWords = /\b(?:process|setTimeout|setInterval|setImmediate|performance|fetch)\b|\bDate\.now\b|\bnew Date\(\s*\)|\bMath\.random\b/g
const factHeads = heads('context', 'errors', 'events', 'bytes', 'tables', 'config')

/** What a fact may take from an impure module or the clock all the same. */
const admitted: Readonly<Record<string, RegExp>> = {
  // isIP is a parser; nothing is opened.
  'packages/redoubt/src/config/kinds.ts': /^node:net$/,
  // The default of an argument: an id has its time from whoever asks.
  'packages/redoubt/src/bytes.ts': /^Date\.now$/,
}

function factFindings(source: Source): readonly string[] {
  if (!factHeads(source.path)) return []
  const fine = admitted[source.path]
  const modules = source.imports.filter(({ from }) => impureModules.test(from) && fine?.test(from) !== true).map(({ from }) => `${source.path}: a fact imports ${from}`)
  const words = [...source.code.matchAll(impureWords)].filter(([word]) => fine?.test(word) !== true).map((match) => `${source.path}:${lineAt(source, match.index)}: a fact uses ${match[0]}`)
  return [...modules, ...words]
}

/** Every danger used outside its door. */
export function doorFindings(sources: readonly Source[]): readonly string[] {
  return sources.flatMap((source) => [
    ...packageDoors.flatMap(([name, may, who]) =>
      may(source.path) ? [] : source.imports.filter(({ from }) => name.test(from)).map(({ from }) => `${source.path}: imports ${from}, which is for ${who}`)),
    ...wordDoors.flatMap(([word, may, who]) =>
      may(source.path) ? [] : [...source.code.matchAll(word)].map((match) => `${source.path}:${lineAt(source, match.index)}: ${match[0]} is for ${who}`)),
    ...textDoors.flatMap(([text, may, who]) =>
      may(source.path) ? [] : source.literals.filter((literal) => text.test(literal.text)).map((literal) => `${source.path}:${lineAt(source, literal.at)}: transaction control or COPY in a text is for ${who}`)),
    ...factFindings(source),
  ])
}
