import type { Server } from 'node:http'
import { isIP } from 'node:net'
import { commitPersonal } from 'redoubt/audit/entry'
import { newId } from 'redoubt/bytes'
import { openColumns, type Columns } from 'redoubt/columns'
import type { Caller } from 'redoubt/context'
import { recordModes, type ControlModes } from 'redoubt/controls'
import type { Environment } from 'redoubt/config'
import type { Emit } from 'redoubt/events'
import { openAttempts } from 'redoubt/http/attempts'
import { edgeLimits } from 'redoubt/http/limit'
import { openLimits, type Limits } from 'redoubt/limits'
import { openDevices } from 'redoubt/limits/device'
import { standardNumbers, type LimitNumbers } from 'redoubt/limits/standard'
import { openTries } from 'redoubt/limits/tries'
import { openRedis, type Redis } from 'redoubt/redis'
import { openHealth, type Health } from 'redoubt/health'
import { openControls } from 'redoubt/http/controls'
import { sessionCookies } from 'redoubt/http/cookies'
import { openCsrf, type Csrf } from 'redoubt/http/csrf'
import type { Route } from 'redoubt/http/route'
import { keysExist, openKeyring, type Keyring, type KeyringSettings } from 'redoubt/keyring'
import { startKeyUsage } from 'redoubt/keyring/usage'
import { openKeyService, type KeyServiceOptions } from 'redoubt/kms'
import { checkDatabase, checkLogin, DatabaseRefused } from 'redoubt/migrate/check'
import { putMail } from 'redoubt/outbox'
import { openPool, type Pool } from 'redoubt/pg'
import { keyServiceOptions } from 'redoubt/kms/environment'
import { openTokens, type Tokens } from 'redoubt/tokens'
import { followKeys, tokenKeys } from 'redoubt/tokens/keys'
import { openCodes } from 'redoubt/tokens/codes'
import { openPasskeys, type Passkeys } from 'redoubt/tokens/factors/passkey'
import { openPasswords, type PasswordOptions } from 'redoubt/tokens/password'
import { lifetimes, type Lifetimes, type Realm } from 'redoubt/tokens/sessions'
import type { Personal } from 'redoubt/transaction'
import { openSigner } from 'redoubt/transaction/signer'
import { actions } from './actions.ts'
import { tenant, type App } from './app.ts'
import type { Settings as Config } from './config.ts'
import { openDoor, type DoorSettings } from './door.ts'
import { modesOf } from './rollout.ts'
import { adminPageRoutes, pageRoutes, pagesOptions } from './pages/site.ts'
import { adminRoutesOf, routesOf } from './routes.ts'
import { checkMigrations } from './sources.ts'
import { storedUrl } from './stored-url.ts'
import { definers, tables, type Therapy } from './tables.ts'

export type ServiceSettings = {
  /** Login of the app role. */
  readonly databaseUrl: string
  /** Login of the keys role. */
  readonly keysUrl: string
  /** Where a password that was replaced is read (stored-url.ts). */
  readonly urlsAgain?: { readonly database: (() => Promise<string>) | undefined; readonly keys: (() => Promise<string>) | undefined }
  /** `local:<path>` or another provider, as redoubt/kms reads it. */
  readonly kms: string
  /** How the key service is reached and signed in to, where it is not a local file. */
  readonly keyService?: Pick<KeyServiceOptions, 'aws' | 'azure' | 'vault' | 'previous'>
  /** How long opened keys stay in memory, where it shall be less than the keyring's own bounds; and by which clock. */
  readonly openedKeys?: Pick<KeyringSettings, 'lifetimes' | 'clock'>
  /** Milliseconds between two looks for a rotated token key, where it shall be less than half a minute. */
  readonly tokenKeysEvery?: number
  /** True: HTTPS is enforced and the local key provider refused. */
  readonly production: boolean
  /** The origin browsers see, and further ones that may call. */
  readonly publicOrigin: string
  readonly origins?: readonly string[]
  /** The origin of the administration; left out: there is no door for it here. */
  readonly adminOrigin?: string | undefined
  /** How long sessions live at each door. Default: the library's. */
  readonly lifetimes?: Readonly<Record<Realm, Lifetimes>>
  /** Hours that the reset of a lost second factor waits. Default 24. */
  readonly factorResetHours?: number
  readonly trustedProxies?: readonly string[]
  /** Modes of controls; what is not named enforces, but that HTTPS is off outside production. */
  readonly controls?: Config['CONTROLS']
  /** Default: year. */
  readonly hsts?: Config['HSTS']
  /** Redis or Valkey, where several instances share their counters. */
  readonly redisUrl?: string | undefined
  /** Milliseconds after which it counts as away, default 50. */
  readonly redisTimeout?: number
  /** Numbers of the limits that are not the standard ones. */
  readonly limits?: Partial<LimitNumbers>
  readonly poolSize?: number
  readonly namedStatements?: boolean
  /** Prefix of the database roles. Default: therapy. */
  readonly roles?: string
  readonly passwords?: PasswordOptions
  readonly now?: () => Date
  readonly emit: Emit
}

export type Service = {
  readonly app: App
  readonly pool: Pool
  readonly keyring: Keyring
  readonly routes: readonly Route[]
  /** What the front door serves to browsers beside the API. */
  readonly pages: readonly Route[]
  readonly health: Health
  /** Not listening yet. */
  readonly server: Server
  /** The door of those who administer and audit: issuer, audience, keys and lifetimes of its own. Not listening yet. */
  readonly admin: { readonly app: App; readonly routes: readonly Route[]; readonly pages: readonly Route[]; readonly server: Server } | undefined
  /** Ends pools and forgets keys; the server must have stopped. */
  close(): Promise<void>
}

/** What a process opens the service with, from its configuration. */
export function serviceSettings(config: Config, env: Environment, emit: Emit): ServiceSettings {
  return {
    databaseUrl: config.DATABASE_URL, keysUrl: config.KEYS_DATABASE_URL, urlsAgain: { database: storedUrl(env, 'DATABASE_URL'), keys: storedUrl(env, 'KEYS_DATABASE_URL') }, kms: config.KMS, keyService: keyServiceOptions(env), production: config.NODE_ENV === 'production',
    publicOrigin: config.PUBLIC_ORIGIN, origins: config.ALLOWED_ORIGINS, controls: config.CONTROLS, hsts: config.HSTS, adminOrigin: config.ADMIN_ORIGIN, factorResetHours: config.FACTOR_RESET_HOURS, trustedProxies: config.TRUSTED_PROXIES,
    redisUrl: config.REDIS_URL, redisTimeout: config.REDIS_TIMEOUT,
    limits: {
      anonymous: config.LIMITS_ANONYMOUS, caller: config.LIMITS_CALLER, address: config.LIMITS_ADDRESS, flood: config.LIMITS_FLOOD,
      signIn: config.LIMITS_SIGN_IN, signInAddress: config.LIMITS_SIGN_IN_ADDRESS,
    },
    lifetimes: {
      tenant: { idle: config.SESSION_IDLE_MINUTES * 60, absolute: config.SESSION_ABSOLUTE_HOURS * 3600 },
      platform: { idle: config.ADMIN_SESSION_IDLE_MINUTES * 60, absolute: config.ADMIN_SESSION_ABSOLUTE_HOURS * 3600 },
    },
    poolSize: config.DATABASE_POOL_SIZE, namedStatements: config.DATABASE_NAMED_STATEMENTS, emit,
  }
}

/**
 * Opens everything the service works with, in the order in which a fault is cheapest: the database is checked before a
 * key is touched. What is returned is correctly configured or this throws.
 * @throws DatabaseRefused with all findings; Refusal when the database or the key service cannot be used
 */
export async function openService(settings: ServiceSettings): Promise<Service> {
  const { emit, production, roles = 'therapy', now = () => new Date(), lifetimes: lives = lifetimes } = settings
  const namedStatements = settings.namedStatements ?? true
  const pool = openPool({ url: settings.databaseUrl, urlAgain: settings.urlsAgain?.database, max: settings.poolSize ?? 10, namedStatements, emit })
  const keysPool = openPool({ url: settings.keysUrl, urlAgain: settings.urlsAgain?.keys, max: 4, namedStatements, emit })
  const ends: (() => unknown)[] = [() => keysPool.close(), () => pool.close()]
  const close = async (): Promise<void> => {
    for (const end of ends.splice(0).reverse()) await end()
  }
  try {
    const findings = [...(await checkDatabase(pool, { ...tables, service: roles }, definers)), ...(await checkLogin(keysPool, `${roles}_keys`))]
    if (findings.length > 0) throw new DatabaseRefused(findings)
    const keyService = await openKeyService(settings.kms, { ...settings.keyService, production, emit, create: !production, dataExists: () => keysExist(keysPool) })
    ends.push(() => keyService.close())
    const usage = startKeyUsage({ pool: keysPool, emit })
    const keyring = openKeyring({ pool: keysPool, service: keyService, realm: tables.service, emit, usage, ...settings.openedKeys })
    ends.push(() => usage.stop(), () => keyring.close())
    await keyring.check()
    const signer = await openSigner(keysPool, roles)
    ends.push(() => signer.close())
    const columns = openColumns(tables, keyring)
    const db: App['db'] = { pool, signer, actions, retention: tables.retention, personal: personalOf(columns), emit }
    const passwords = await openPasswords(keyring, settings.passwords)
    const openRealm = async (purpose: 'token-sign' | 'token-sign-admin', issuer: string, audience: string): Promise<Tokens> => {
      const opened = openTokens({ issuer, audience, keys: await tokenKeys(keyring, purpose) })
      const following = followKeys({ tokens: opened, keyring, purpose, ...(settings.tokenKeysEvery === undefined ? {} : { every: settings.tokenKeysEvery }) })
      ends.push(() => following.stop())
      return opened
    }
    const controls = openControls(...modesOf(settings))
    const codes = openCodes({ keyring, gate: db, emit })
    const redis = settings.redisUrl === undefined ? undefined : openRedis({ url: settings.redisUrl, name: tables.service, timeout: settings.redisTimeout ?? 50, emit })
    if (redis !== undefined) ends.push(() => redis.close())
    const limits = await limitsOf(redis, keyring)
    const numbers = { ...standardNumbers, ...settings.limits }
    const mode = (): ControlModes['limits'] => controls.modes.limits
    const devices = openDevices({ keys: async () => (await keyring.purposeKey('known-device')).secrets })
    const tries = openTries({ limits, numbers, mode, emit })
    const attemptsAt = (service: string): App['attempts'] => openAttempts({ service, tries, devices })
    const csrfAt = (origin: string): Csrf => openCsrf({ secrets: async () => (await keyring.purposeKey('csrf')).secrets, origins: [origin], controls })
    const tokens = await openRealm('token-sign', settings.publicOrigin, tables.service)
    const csrf = csrfAt(settings.publicOrigin)
    const app: App = {
      db, columns, passwords, codes, emit, now,
      attempts: attemptsAt(tables.service),
      browser: { cookies: sessionCookies(tables.service), csrf },
      factors: {
        gate: db, columns, codes, keyring, passkeys: passkeysOf(settings.publicOrigin, keyring), issuer: 'Therapy', resetHours: settings.factorResetHours ?? 24, emit, now: () => now().getTime(),
        notify: (tx, topic, user, at) => putMail(columns, tx, { id: newId(), topic, user, ...(at === undefined ? {} : { payload: { at: at.toISOString() } }) }),
      },
      identity: { gate: db, passwords, tokens, keyring, realm: 'tenant', tenant, lifetimes: lives.tenant, emit },
    }
    await recordModes(db, tenant, { requestId: newId(), address: null }, controls.modes, production ? {} : { https: 'off' })
    const routes = routesOf(app)
    const pages = pageRoutes(app, tables.service)
    const health = openHealth({
      checks: [
        { name: 'database', timeout: 1_000, run: () => pool.query({ text: 'select 1', values: [] }) },
        { name: 'migrations', timeout: 1_000, run: () => checkMigrations(pool) },
        { name: 'keys', timeout: 2_000, run: () => keyring.opened() },
        // Asks the key service twice, which counts and may cost; while it is away, what is in memory serves on.
        { name: 'key-service', timeout: 2_000, every: 10_000, degrades: true as const, run: () => keyring.check() },
        ...(redis === undefined ? [] : [{ name: 'redis', timeout: 2_000, run: () => redis.check(), degrades: true as const }]),
      ],
      emit,
    })
    const { publicOrigin, origins = [], adminOrigin, trustedProxies = [], hsts } = settings
    const shared: DoorSettings = { production, trustedProxies, hsts, health, controls, limits: edgeLimits({ limits, numbers, mode, emit }), emit }
    const server = openDoor(shared, { title: 'Therapy', origins: [publicOrigin, ...origins], app, roles: ['patient', 'therapist', 'admin', 'auditor'], routes: [...routes, ...pages], pages: pagesOptions('tenant', controls.modes) })
    let admin: Service['admin']
    if (adminOrigin !== undefined) {
      // The same service for those who administer and audit: other tokens and cookies, shorter sessions, other routes.
      const adminTokens = await openRealm('token-sign-admin', adminOrigin, `${tables.service}-admin`)
      const adminApp: App = {
        ...app, browser: { cookies: sessionCookies(`${tables.service}-admin`), csrf: csrfAt(adminOrigin) },
        attempts: attemptsAt(`${tables.service}-admin`),
        factors: { ...app.factors, passkeys: passkeysOf(adminOrigin, keyring), issuer: 'Therapy administration' },
        identity: { ...app.identity, tokens: adminTokens, realm: 'platform', lifetimes: lives.platform },
      }
      const behind = adminRoutesOf(adminApp)
      const adminPages = adminPageRoutes(adminApp, `${tables.service}-admin`)
      admin = { app: adminApp, routes: behind, pages: adminPages, server: openDoor(shared, { title: 'Therapy administration', origins: [adminOrigin], app: adminApp, roles: ['admin', 'auditor', 'enrolment'], routes: [...behind, ...adminPages], pages: pagesOptions('platform', controls.modes) }) }
    }
    return { app, pool, keyring, routes, pages, health, server, admin, close }
  } catch (error) {
    await close()
    throw error
  }
}

/** Browsers give passkeys to host names under TLS, and to localhost: not to 127.0.0.1, which is the same place. */
function passkeysOf(publicOrigin: string, keyring: Keyring): Passkeys | undefined {
  const url = new URL(publicOrigin)
  if (url.protocol === 'http:' && url.hostname === '127.0.0.1') url.hostname = 'localhost'
  if (isIP(url.hostname) !== 0 || url.hostname.startsWith('[') || (url.protocol !== 'https:' && url.hostname !== 'localhost')) return undefined
  return openPasskeys({ origin: url.origin, name: 'Therapy', keyring })
}

/** Shared through Redis under names that only our instances can make; in memory where there is no Redis. */
async function limitsOf(redis: Redis | undefined, keyring: Keyring): Promise<Limits> {
  if (redis === undefined) return openLimits()
  await redis.tried
  const [secret] = (await keyring.purposeKey('limits')).secrets
  if (secret === undefined) throw new TypeError('openService: the keyring gave no key for the names of counters')
  return openLimits({ shared: { redis, secret, prefix: tables.service } })
}

/** The address of a person's request, sealed under that person's own key; the chain holds a commitment to it. */
function personalOf(columns: Columns<Therapy>): (caller: Caller, entryId: string) => Promise<Personal | null> {
  return async (caller, entryId) => {
    if (caller.actor === null || caller.address === null) return null
    const { clear, commitment } = commitPersonal(caller.address)
    const row = await columns.seal({ sealedUnder: () => undefined, keyUser: { actor: caller.role, purpose: 'audit' } }, 'redoubt.audit_logs', { id: entryId, actor_id: caller.actor, tenant_id: caller.tenant, personal: clear })
    return { sealed: row.personal_enc, commitment }
  }
}
