// A worker of duite: stock gRPC and the OpenTelemetry API. The span of a handler is a child of its
// attempt's span, which is the server's.
'use strict'

const { randomUUID } = require('node:crypto')
const { context, propagation, trace, SpanStatusCode } = require('@opentelemetry/api')
const { failureOf, json } = require('./duite_client')

// Runs tasks of the types that `handlers` names, one after the other.
class Worker {
  constructor (client, handlers, queue = 'default') {
    Object.assign(this, { client, handlers, queue })
    this.who = { worker_id: 'node', instance_uid: randomUUID() }
  }

  // Waits for tasks, runs and finishes them. Gives their leases.
  async runSome (most = 1) {
    const { leases } = await this.client.workers.LeaseTasks({
      parent: this.client.parent, queues: [this.queue], task_types: Object.keys(this.handlers),
      max_tasks: most, wait: { seconds: 10 }, ...this.who
    })
    if (leases.length === 0) return []
    const tokens = { lease_tokens: leases.map((lease) => lease.lease_token), ...this.who }
    await this.client.workers.RenewLeases(tokens)
    const every = Math.min(...leases.map(({ renew_interval: { seconds, nanos } }) =>
      seconds * 1e3 + nanos / 1e6))
    const renewing = setInterval(() => this.client.workers.RenewLeases(tokens).catch(() => {}), every)
    try {
      const outcomes = []
      for (const lease of leases) outcomes.push(await this.run(lease))
      // An answer may be lost: the token that ended an attempt is answered again.
      for (let time = 0; time < 2; time++) {
        const { results } = await this.client.workers.FinishTasks({ outcomes })
        const refused = results.find((result) => result.error)
        if (refused) throw new Error(`an outcome was refused: ${refused.error.message}`)
      }
    } finally {
      clearInterval(renewing)
    }
    return leases
  }

  run ({ task, lease_token, trace_context }) {
    const attempt = propagation.extract(context.active(), trace_context ?? {})
    const tracer = trace.getTracer('duite')
    return tracer.startActiveSpan(`handle ${task.type}`, {}, attempt, async (span) => {
      try {
        const value = await this.handlers[task.type](task, JSON.parse(task.input.data))
        return { lease_token, output: json(value ?? null) }
      } catch (error) {
        // The server records the exception, once, with the attempt's span.
        span.setStatus({ code: SpanStatusCode.ERROR, message: error.message })
        return { lease_token, failure: failureOf(error) }
      } finally {
        span.end()
      }
    })
  }
}

module.exports = { Worker }
