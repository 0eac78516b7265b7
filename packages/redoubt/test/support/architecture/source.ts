/** A text of a source: where it stands, and what is between its quotes (`${…}` of templates left out). */
export type Literal = { readonly at: number; readonly text: string }
export type Import = { readonly from: string; readonly typeOnly: boolean; readonly dynamic: boolean }

/** A file as the rules see it. */
export type Source = {
  /** From the root of the repository, with slashes. */
  readonly path: string
  readonly text: string
  /** The text with comments and the insides of literals blanked out; positions and lines are kept. */
  readonly code: string
  readonly comments: string
  readonly literals: readonly Literal[]
  readonly imports: readonly Import[]
}

type Scan = { readonly code: string[]; readonly comments: string[]; readonly literals: Literal[] }

/** After these a slash begins a regular expression; after a name, a number or a closing bracket it divides. */
const beforeRegex = /(?:^|[=(,:;[!&|?{}+\-*%<>~^]|\b(?:return|typeof|case|in|of|throw|await|yield))\s*$/

/** Index behind a literal that begins at `at` and ends with `quote`; a regular expression ends outside its classes. */
function literalEnd(text: string, at: number, quote: string): number {
  let inClass = false
  for (let i = at + 1; i < text.length; i++) {
    const c = text[i]
    if (c === '\\') i++
    else if (quote === '/' && c === '[') inClass = true
    else if (quote === '/' && c === ']') inClass = false
    else if (c === quote && !inClass) return i + 1
    else if (c === '\n') return i
  }
  return text.length
}

function blankInto(target: string[], text: string, from: number, to: number, keep: boolean): void {
  for (let i = from; i < to; i++) {
    const c = text[i] ?? ''
    target[i] = keep || c === '\n' ? c : ' '
  }
}

/** Scans code from `at` up to the `}` that closes a template's `${`, or to the end. */
function scanCode(text: string, at: number, scan: Scan, inTemplate: boolean): number {
  let depth = 0
  let i = at
  while (i < text.length) {
    const two = text.slice(i, i + 2)
    const c = two[0] ?? ''
    if (two === '//' || two === '/*') {
      const found = two === '//' ? text.indexOf('\n', i) : text.indexOf('*/', i + 2) + 2
      const end = found < 2 ? text.length : found
      blankInto(scan.code, text, i, end, false)
      blankInto(scan.comments, text, i, end, true)
      i = end
    } else if (c === "'" || c === '"' || (c === '/' && beforeRegex.test(scan.code.slice(Math.max(0, i - 40), i).join('')))) {
      const end = literalEnd(text, i, c)
      scan.code[i] = c
      blankInto(scan.code, text, i + 1, end - 1, false)
      scan.code[end - 1] = c
      if (c !== '/') scan.literals.push({ at: i, text: text.slice(i + 1, end - 1) })
      i = end
    } else if (c === '`') {
      i = scanTemplate(text, i, scan)
    } else {
      if (c === '{') depth++
      if (c === '}' && depth-- === 0 && inTemplate) return i
      scan.code[i++] = c
    }
  }
  return i
}

function scanTemplate(text: string, at: number, scan: Scan): number {
  let inside = ''
  let i = at + 1
  scan.code[at] = '`'
  while (i < text.length && text[i] !== '`') {
    if (text[i] === '\\') {
      blankInto(scan.code, text, i, i + 2, false)
      inside += text.slice(i, i + 2)
      i += 2
    } else if (text.startsWith('${', i)) {
      blankInto(scan.code, text, i, i + 2, false)
      i = scanCode(text, i + 2, scan, true)
      scan.code[i++] = ' '
      inside += '${}'
    } else {
      blankInto(scan.code, text, i, i + 1, false)
      inside += text[i++] ?? ''
    }
  }
  scan.code[i] = '`'
  scan.literals.push({ at, text: inside })
  return i + 1
}

const staticImport = /\b(?:import|export)\s+(type\s+)?(?:(?:(?!\b(?:import|export)\b)[\w\s{},*$])*?\bfrom\s*)?(?=['"])/g
const dynamicImport = /(?:\bimport|\brequire|\bcreateRequire\s*\([^()]*\))\s*\(\s*(?=['"`])/g

/** Reads a source without running it; comments and literals cannot pose as code. */
export function sourceOf(path: string, text: string): Source {
  const scan: Scan = { code: Array.from(text, () => ' '), comments: [], literals: [] }
  scan.code.length = text.length
  for (let i = 0; i < text.length; i++) scan.code[i] = scan.comments[i] = text[i] === '\n' ? '\n' : ' '
  scanCode(text, 0, scan, false)
  const code = scan.code.join('')
  const at = new Map(scan.literals.map((literal) => [literal.at, literal.text]))
  const found = (pattern: RegExp, dynamic: boolean): readonly Import[] =>
    [...code.matchAll(pattern)].flatMap((match) => {
      const from = at.get(match.index + match[0].length)
      return from === undefined ? [] : [{ from, typeOnly: match[1] !== undefined, dynamic }]
    })
  return { path, text, code, comments: scan.comments.join(''), literals: scan.literals, imports: [...found(staticImport, false), ...found(dynamicImport, true)] }
}

/** Number of the line on which a position stands, from 1. */
export function lineAt(source: Source, position: number): number {
  return source.text.slice(0, position).split('\n').length
}
