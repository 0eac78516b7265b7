import { getPriority, setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import { hashSync, verifySync } from '@node-rs/argon2'
import type { PasswordJob, PasswordResult } from './password-threads.ts'

/*
 * A thread that hashes passwords and does nothing else. It yields: a hash keeps a core busy for 12 ms and more, and the
 * event loop waited behind it (of 100 sign-ins on two cores: p99 5.7 ms, with the lower priority 4.5). On Linux a priority
 * is a thread's own; elsewhere it would be the whole process's.
 */
const niceness = 10
if (process.platform === 'linux' && getPriority() < niceness) {
  try {
    setPriority(niceness)
  } catch {
    // A sandbox that forbids the call: hashed all the same.
  }
}

parentPort?.on('message', ({ phc, text, parameters }: PasswordJob) => {
  let result: PasswordResult
  try {
    result = { value: phc === undefined ? hashSync(text, parameters) : verifySync(phc, text) }
  } catch {
    // What argon2id says of a stored hash it cannot read stays here.
    result = { value: undefined }
  }
  parentPort?.postMessage(result)
})
