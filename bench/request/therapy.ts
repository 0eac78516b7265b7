import { openService } from '../../apps/therapy/src/service.ts'

/** The service as it is, in a process of its own; says its port to the parent. */
const { app: url, keys, kms, roles } = JSON.parse(process.argv[2] ?? '{}') as Readonly<Record<string, string>>
if (url === undefined || keys === undefined || kms === undefined || roles === undefined) throw new TypeError('bench: settings are missing')
const service = await openService({ databaseUrl: url, keysUrl: keys, kms, production: false, publicOrigin: 'http://127.0.0.1', roles, poolSize: 10,
  // The bench asks more often than anybody may; the limits are on.
  limits: { anonymous: 1e6, caller: 1e6, address: 1e6, flood: 1e6, signIn: 1e6, signInAddress: 1e6 }, emit: () => undefined })
service.server.listen(0, '127.0.0.1', () => {
  const address = service.server.address()
  if (address !== null && typeof address === 'object') process.send?.(address.port)
})
process.on('disconnect', () => process.exit(0))
