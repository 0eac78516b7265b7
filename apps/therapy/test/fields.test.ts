import assert from 'node:assert/strict'
import { test } from 'node:test'
import { html, htmlText } from 'redoubt/http/html'
import { line, prose } from '../src/fields.ts'

/** The same texts in every run: a generator of 32 bits (Numerical Recipes). */
function texts(count: number): readonly string[] {
  let state = 20_260_101
  const below = (n: number): number => Math.floor(((state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) / 2 ** 32) * n)
  const ranges = [[0x20, 0x7e], [0xa0, 0x24f], [0x300, 0x36f], [0x370, 0x5ff], [0x600, 0x6ff], [0x900, 0xdff], [0x1100, 0x11ff], [0x200c, 0x200d], [0x3040, 0x30ff], [0x4e00, 0x9fff], [0xac00, 0xd7a3], [0xfe00, 0xfe0f], [0x1f300, 0x1faff], [0xe0100, 0xe01ef]] as const
  const one = (): string => {
    const [from, to] = ranges[below(ranges.length)] ?? [0x41, 0x5a]
    return String.fromCodePoint(from + below(to - from + 1))
  }
  return Array.from({ length: count }, () => `${' '.repeat(below(3))}${Array.from({ length: 1 + below(12) }, one).join('')}`)
}

const decoded = (text: string): string => text.replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&amp;', '&')
/** Told by Unicode's own properties, not by the list that is tested. */
const hidden = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\p{Bidi_Control}]/u

test('whatever text is taken comes back as it was written, in one form, and is encoded only where it goes out', () => {
  let taken = 0
  for (const text of texts(20_000)) {
    for (const field of [line(1, 100), prose(100)]) {
      const { data } = field.safeParse(text)
      if (data === undefined) continue
      taken++
      assert.equal(data, text.normalize('NFC').trim())
      assert.equal(field.parse(data), data, 'taken once more it is the same')
      assert.equal(field.parse(data.normalize('NFD')), data, 'written otherwise it is the same')
      assert.doesNotMatch(data, hidden)
      const shown = htmlText(html`<p title="${data}">${data}</p>`)
      const [, attribute = '', inside = ''] = /^<p title="([^"<>]*)">([^<>]*)<\/p>$/.exec(shown) ?? assert.fail(shown)
      assert.deepEqual([decoded(attribute), decoded(inside)], [data, data])
    }
  }
  assert.ok(taken > 20_000, `${taken}`)
})

test('attack: a name with a mark that hides, reverses or breaks it, anywhere in it', () => {
  const marks = [0x00, 0x09, 0x0a, 0x0d, 0x1b, 0x7f, 0x85, 0xad, 0x61c, 0x115f, 0x1160, 0x180e, 0x200b, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202e, 0x2060, 0x2066, 0x2069, 0x206a, 0x3164, 0xfeff, 0xffa0, 0xfff9, 0xd800, 0xdfff]
  for (const mark of marks) {
    const text = `Ada${String.fromCodePoint(mark)}Sommer`
    assert.equal(line(1, 100).safeParse(text).success, false, mark.toString(16))
  }
  for (const name of ['نرگس\u200cزاده', 'क्\u200dष', '葛\u{e0100}城', "O'Brien-Łuczak", '👩\u200d⚕\ufe0f']) assert.equal(line(1, 100).parse(name), name.normalize('NFC'))
})
