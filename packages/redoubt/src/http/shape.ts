import { z } from 'zod'

export type JsonSchema = { readonly [key: string]: unknown }

/**
 * The JSON Schema of an input, provided that every object in it refuses unknown fields.
 * @throws TypeError when one does not, or when the schema takes anything
 */
export function strictShape(where: string, schema: z.ZodType): JsonSchema {
  const shape = toShape(where, schema, 'input')
  walk(where, shape, (node, at) => {
    if (isOpen(node)) throw new TypeError(`${at} takes anything; say what it takes`)
    if (node['type'] === 'object' && node['additionalProperties'] === undefined) throw new TypeError(`${at} must be z.strictObject: unknown fields are refused`)
  })
  return shape
}

/**
 * The JSON Schema of an answer, provided that it is an allow-list throughout.
 * @throws TypeError where it would let unknown fields out (z.any, z.unknown, z.looseObject)
 */
export function answerShape(where: string, schema: z.ZodType): JsonSchema {
  const shape = toShape(where, schema, 'output')
  walk(where, shape, (node, at) => {
    if (isOpen(node)) throw new TypeError(`${at} lets anything out; name its fields`)
  })
  return shape
}

function toShape(where: string, schema: z.ZodType, io: 'input' | 'output'): JsonSchema {
  try {
    const { $schema: _dialect, ...shape } = z.toJSONSchema(schema, { target: 'draft-2020-12', io }) as Record<string, unknown>
    return shape
  } catch (cause) {
    throw new TypeError(`${where} has no form in JSON (a date is z.iso.datetime(), a bigint is text)`, { cause })
  }
}

/** A schema without any constraint. */
function isOpen(node: JsonSchema): boolean {
  return Object.keys(node).every((key) => ['title', 'description', 'examples', 'id', 'default', 'readOnly', 'writeOnly', 'deprecated'].includes(key))
}

function walk(at: string, node: unknown, check: (node: JsonSchema, at: string) => void): void {
  if (typeof node !== 'object' || node === null) return
  const schema = node as JsonSchema
  check(schema, at)
  for (const key of ['additionalProperties', 'items', 'not', 'propertyNames']) {
    if (schema[key] !== undefined) walk(`${at}.${key}`, schema[key], check)
  }
  for (const key of ['anyOf', 'oneOf', 'allOf', 'prefixItems']) {
    for (const part of (schema[key] as readonly unknown[] | undefined) ?? []) walk(at, part, check)
  }
  for (const key of ['properties', '$defs', 'patternProperties']) {
    for (const [name, part] of Object.entries((schema[key] as JsonSchema | undefined) ?? {})) walk(`${at}.${name}`, part, check)
  }
}
