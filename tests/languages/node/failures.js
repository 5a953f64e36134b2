// Fails in a hundred ways for two causes: failures.js HOST:PORT PROTOS QUEUE TASKS CAUSE=REPORTS...
//
// Runs so many tasks of type `solve`, each of which fails, and reports failures outside of tasks.
'use strict'

const { Client, failureOf } = require('./duite_client')
const { Worker } = require('./duite_worker')

function check (number) {
  throw new RangeError(`step ${number} exceeds ${number - 1}`)
}

function convert (number) {
  // The same type, raised in another function: another cause.
  throw new RangeError(`${number} does not fit into ${number % 16} bits`)
}

const CAUSES = { check, convert }

function directly (cause, number) {
  cause === 'check' ? check(number) : convert(number)
}

function byALongerWay (cause, number) {
  [number].forEach((number) => CAUSES[cause](number))
}

// The same cause by different callers and line numbers is one.
function run (cause, number) {
  if (number % 2) directly(cause, number)
  else byALongerWay(cause, number)
}

function caught (cause, number) {
  try {
    run(cause, number)
  } catch (error) {
    const failure = failureOf(error)
    // Clients need not say where: the stack does.
    if (number % 3 === 0) failure.location = ''
    return failure
  }
}

async function main ([address, protos, queue, most, ...reports]) {
  const client = new Client(address, protos)
  for (const report of reports) {
    const [cause, count] = report.split('=')
    await client.report('solve', Array.from({ length: Number(count) }, (_, n) => caught(cause, n)))
  }
  const worker = new Worker(client, {
    solve: (task, { cause, number }) => run(cause, number)
  }, queue)
  for (let left = Number(most); left > 0;) {
    left -= (await worker.runSome(Math.min(left, 100))).length
  }
}

main(process.argv.slice(2)).then(() => process.exit(0), (error) => {
  console.error(error)
  process.exitCode = 1
})
