// Carries out the scenario with the protos as they are; ../README.md says what each verb does.
//
//     node conform.js HOST:PORT NAMESPACE SCENARIO
'use strict'

const { randomUUID } = require('node:crypto')
const fs = require('node:fs')
const { promisify } = require('node:util')
const { Frames, Pen, STREAM_MS, Watch } = require('./streams')
const {
  Step, duite, grpc, optional, payload, plain, seconds, short, showMap, showPayload, showStatus, showValue, statusOf,
  updatesOf, valueOf
} = require('./words')

const [address, namespace, scenario] = process.argv.slice(2)
const parent = `namespaces/${namespace}`

// What earlier steps made, by their names.
const names = new Map() // of tasks, by `id` or `as`
const instances = new Map()
const leases = new Map()
const streams = new Map()

const task = (id) => names.get(id) ?? `${parent}/tasks/${id}`
const state = (id) => `${parent}/states/${id}`

const [tasks, states, workers] = ['TaskService', 'StateService', 'WorkerService'].map((name) =>
  new duite.v1[name](address, grpc.credentials.createInsecure()))

// A unary call, as a promise, with the step's deadline.
function unary (service, method, request, step) {
  const deadline = Date.now() + Number(step.get('deadline') || 30) * 1000
  return promisify(service[method].bind(service))(request, new grpc.Metadata(), { deadline })
}

const stream = (service, method, request) => service[method](request, { deadline: Date.now() + STREAM_MS })

function worker (name) {
  if (!instances.has(name)) instances.set(name, randomUUID())
  return { worker_id: name, instance_uid: instances.get(name) }
}

function watchOf (ids) {
  const request = { parent, filter: { names: ids.split(',').map(task) }, until_terminal: true }
  return new Watch(
    (options) => stream(tasks, 'WatchTasks', { ...request, options }),
    ({ tasks, changed, removed }) => [
      ...(tasks ?? changed).map((task) => [short(task.name), plain(task.status, 'STATUS_')]),
      ...(removed ?? []).map((task) => [short(task.name), null])
    ])
}

function failureOf (step) {
  return {
    category: `CATEGORY_${step.get('category') || 'APPLICATION'}`,
    type: step.get('failure'),
    message: step.get('message'),
    stack_trace: step.get('stack'),
    runtime: step.get('runtime'),
    retryable: step.get('retryable') === 'yes',
    metadata: step.pairs('meta'),
    details: payload(step.get('details')) || null,
    retry_delay: step.get('delay') ? seconds(step.get('delay')) : null,
    cause: step.get('cause') ? { type: step.get('cause'), message: step.get('cause-message') } : null
  }
}

// Each gives the words after `ok`.
const verbs = {
  async submit (step) {
    const [id, key] = [step.get('id'), step.get('id') || step.get('as')]
    const task = {
      type: step.get('type'),
      input: payload(step.get('input')) || null,
      labels: step.pairs('label'),
      state_name: step.get('state') && state(step.get('state')),
      policy: { max_attempts: Number(step.get('attempts')) }
    }
    const request = { parent, task_id: id, task, request_id: step.get('request') }
    const { task: made } = await unary(tasks, 'CreateTask', request, step)
    const known = names.get(key) ?? made.name
    names.set(key, known)
    const told = known === made.name ? key : 'other'
    return ` task=${told} status=${plain(made.status, 'STATUS_')} attempt=${made.attempt}`
  },

  async get (step) {
    const { task: got } = await unary(tasks, 'GetTask', { name: task(step.get('id')) }, step)
    const { failure } = got
    let text = ` task=${short(got.name)} status=${plain(got.status, 'STATUS_')} attempt=${got.attempt}`
    text += showPayload('output', got.output)
    if (!failure) return text
    text += ` failure=${failure.type} message=${failure.message} category=${plain(failure.category, 'CATEGORY_')}`
    text += optional('stack', failure.stack_trace) + optional('runtime', failure.runtime)
    text += optional('cause', failure.cause?.type) + optional('cause-message', failure.cause?.message)
    text += showMap('meta', failure.metadata) + showPayload('details', failure.details)
    return `${text} attempts=${got.attempts.map((attempt) => attempt.failure?.message ?? '').join(',')}`
  },

  async list (step) {
    let [count, token] = [0, '']
    do {
      const request = { parent, page_size: Number(step.get('size')), page_token: token }
      const page = await unary(tasks, 'ListTasks', request, step)
      count += page.tasks.length
      token = page.next_page_token
    } while (token)
    return ` tasks=${count}`
  },

  async cancel (step) {
    const request = { name: task(step.get('id')), reason: step.get('reason') }
    const { task: got } = await unary(tasks, 'CancelTask', request, step)
    const running = got.cancel_requested && !got.end_time
    return ` status=${plain(got.status, 'STATUS_')}` + (running ? ' cancel_requested=yes' : '')
  },

  async await (step) {
    const watch = watchOf(step.get('id'))
    await watch.open()
    await watch.until('end', 'OK')
    return watch.show()
  },

  tasks (step) {
    streams.set(step.get('as'), watchOf(step.get('ids')))
    return verbs.resume(step)
  },

  watch (step) {
    const ids = step.get('states').split(',')
    const show = (change) => change.change === 'stub' ? `stub:${change.stub.content_type}` : showValue(change.value)
    const watch = new Watch(
      (options) => stream(states, 'WatchState', { names: ids.map(state), options }),
      ({ entries, changes }) => (entries ?? changes).map((change) =>
        [`${ids[change.target]}/${change.key}`, change.change === 'deleted' ? null : show(change)]),
      step.get('token'))
    streams.set(step.get('as'), watch)
    return verbs.resume(step)
  },

  async resume (step) {
    const watch = streams.get(step.get('as'))
    return ` start=${await watch.open()}${watch.show()}`
  },

  async until (step) {
    const watch = streams.get(step.get('as'))
    const [wanted] = step.words.filter(([name]) => name !== 'as' && name !== 'deadline')
    await watch.until(...wanted)
    return `${watch.show()} chain=${watch.chain ? 'ok' : 'broken'}`
  },

  cut (step) {
    streams.get(step.get('as')).cancel()
    return ''
  },

  close (step) { return verbs.cut(step) },

  async lease (step) {
    const wait = seconds(step.get('wait'))
    const request = { parent, task_types: [step.get('type')], wait, ...worker(step.get('worker')) }
    const { leases: [lease] } = await unary(workers, 'LeaseTasks', request, step)
    if (!lease) return ' none'
    leases.set(step.get('as'), { token: lease.lease_token, worker: step.get('worker') })
    const given = lease.task
    return ` task=${short(given.name)} attempt=${given.attempt}` +
      showPayload('input', given.input) + showMap('label', given.labels)
  },

  async renew (step) {
    const lease = leases.get(step.get('lease')) ?? { token: Buffer.from(step.get('token')), worker: 'w1' }
    const request = { lease_tokens: [lease.token], ...worker(lease.worker) }
    const { statuses } = await unary(workers, 'RenewLeases', request, step)
    return ` ${plain(statuses[0].disposition, 'DISPOSITION_')}`
  },

  async release (step) {
    const request = { lease_tokens: [leases.get(step.get('lease')).token] }
    await unary(workers, 'ReleaseLeases', request, step)
    return ''
  },

  async finish (step) {
    const outcome = { lease_token: leases.get(step.get('lease')).token }
    if (step.get('failure')) outcome.failure = failureOf(step)
    else if (step.get('cancelled')) outcome.cancelled = true
    else outcome.output = payload(step.get('output')) || {}
    if (step.get('flushed')) {
      const { opening: { state_name, writer_id }, sent } = streams.get(step.get('flushed')) // eslint-disable-line camelcase
      outcome.flushed = [{ state_name, writer_id, sequence: sent }]
    }
    if (step.get('contribute')) {
      const [, id, key, word] = /(.*?):(.*?):(.*)/.exec(step.get('contribute'))
      outcome.contributions = [{ state_name: state(id), updates: [{ key, add: valueOf(word) }] }]
    }
    const { results: [result] } = await unary(workers, 'FinishTasks', { outcomes: [outcome] }, step)
    if (result.error) throw Object.assign(new Error(result.error.message), { refused: result.error })
    return ` task=${short(result.task.name)}`
  },

  directives (step) {
    const call = stream(workers, 'WatchLeases', { parent, ...worker(step.get('worker')) })
    streams.set(step.get('as'), new Frames(call))
    return ''
  },

  async directive (step) {
    const { token } = leases.get(step.get('lease'))
    for (let frame; (frame = await streams.get(step.get('as')).next());) {
      const told = frame.directive
      if (told && (told.lease_token.length === 0 || told.lease_token.equals(token))) {
        return ` ${plain(told.disposition, 'DISPOSITION_')}${optional('reason', told.reason)}`
      }
    }
    throw new Error('the directives ended')
  },

  async update (step) {
    const { rejected } = await unary(states, 'UpdateState', {
      name: state(step.get('state')),
      updates: updatesOf(step),
      request_id: step.get('request'),
      expected_revision: step.get('revision') || 0
    }, step)
    return rejected.map(({ key, reason }) => ` rejected=${key}:${reason}`).join('')
  },

  async 'get-state' (step) {
    const id = step.get('state')
    const { state: got } = await unary(states, 'GetState', { name: state(id) }, step)
    return got.entries.map(({ key, value }) => ` ${id}/${key}=${showValue(value)}`).join('')
  },

  async 'delete-state' (step) {
    await unary(states, 'DeleteState', { name: state(step.get('state')) }, step)
    return ''
  },

  async 'push-open' (step) {
    const pen = new Pen(states, {
      state_name: state(step.get('state')),
      writer_id: step.get('writer'),
      lease_token: leases.get(step.get('lease'))?.token
    })
    streams.set(step.get('as'), pen)
    return ` last=${await pen.open()}`
  },

  async 'push-resume' (step) {
    const pen = streams.get(step.get('as'))
    const before = pen.acked
    const last = await pen.open()
    for (const batch of pen.unacked) pen.write(batch)
    return before <= last && last <= pen.sent ? ` last=${before}..${pen.sent}` : ` last=${last}`
  },

  async push (step) {
    const to = Number(step.get('to'))
    for (let sequence = Number(step.get('from')); sequence <= to; sequence++) {
      const final = step.get('final') === 'yes' && sequence === to
      await streams.get(step.get('as')).send({ sequence, updates: updatesOf(step, sequence), final })
    }
    return ''
  },

  async 'push-until' (step) {
    const pen = streams.get(step.get('as'))
    while (step.get('rewind') || pen.acked < Number(step.get('acked'))) {
      const frame = await pen.read()
      if (!frame) throw new Error('the push ended')
      if (frame.rewind) return ` rewind=${frame.rewind.expected_sequence}${pen.showRejected()}`
    }
    return ` acked=${pen.acked}${pen.showRejected()}`
  },

  async 'push-close' (step) {
    const pen = streams.get(step.get('as'))
    pen.call.end()
    while (await pen.read());
    return ` acked=${pen.acked}`
  }
}

async function run (step) {
  try {
    return 'ok' + await verbs[step.verb](step)
  } catch (error) {
    if (error.refused) return showStatus(error.refused)
    if (error.code === undefined || !(error.code in grpc.status)) throw error
    return showStatus(statusOf(error))
  }
}

async function main () {
  let number = 0
  for (const line of fs.readFileSync(scenario, 'utf8').split('\n')) {
    if (line && !'#>'.includes(line[0])) console.log(`${++number} ${await run(new Step(line))}`)
  }
}

main().then(() => process.exit(0), (error) => {
  console.error(error)
  process.exit(1)
})
