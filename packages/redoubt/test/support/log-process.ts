import { openLog } from '../../src/log.ts'

/** Writes lines and ends in the way its argument names; the test counts what arrived on stdout. */
const [ending = 'return', count = '1000', drain = ''] = process.argv.slice(2)
const log = openLog({ service: 'ending', version: '1', tables: null })
if (drain === 'drain') {
  process.on('SIGTERM', () => {
    log.info('service', 'asked to stop')
    setTimeout(() => {
      log.info('service', 'drained')
      process.exit(0)
    }, 100)
  })
}
for (let i = 0; i < Number(count); i++) log.info('job', 'line', { i })
if (ending === 'exit') process.exit(3)
if (ending === 'throw') throw new TypeError('the end')
if (ending === 'close') log.close()
if (ending === 'signal') {
  process.stderr.write('ready')
  setInterval(() => undefined, 1000)
}
