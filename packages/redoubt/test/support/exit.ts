import { after } from 'node:test'

/**
 * Preloaded by the runner into every test file: --test-timeout does not end a file whose tests are over but whose open
 * socket or timer keeps the process alive, so one forgotten close would hang the whole run.
 */
const patience = 20_000

// Only in the processes of the files; the runner's own process is preloaded too.
if (process.env['NODE_TEST_CONTEXT'] !== undefined) {
  after(() => {
    setTimeout(() => {
      process.stderr.write(`The tests ended ${patience / 1000} s ago and the process still holds: ${process.getActiveResourcesInfo().join(', ')}\n`)
      process.exit(1)
    }, patience).unref()
  })
}
