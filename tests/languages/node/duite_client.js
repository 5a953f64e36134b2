// A client of duite: stock gRPC and the OpenTelemetry API. With the gRPC instrumentation on, each
// call carries its span's context, so a task belongs to the trace that it was submitted in.
'use strict'

const { randomUUID } = require('node:crypto')
const path = require('node:path')
const { promisify } = require('node:util')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')
const { context, propagation } = require('@opentelemetry/api')

const RUNTIME = `node/${process.versions.node.split('.')[0]}`
const STACK_LIMIT = 64 << 10
const REPORTS_PER_CALL = 100
const SERVICES = { tasks: 'TaskService', workers: 'WorkerService', errors: 'ErrorService' }

// One connection to one namespace; its services' calls give promises.
class Client {
  constructor (address, protos, parent = 'namespaces/default') {
    this.parent = parent
    const files = ['task', 'worker', 'error'].map((name) => `duite/v1/${name}_service.proto`)
    const options = { includeDirs: [protos], keepCase: true, longs: String, enums: String }
    const { v1 } = grpc.loadPackageDefinition(loadSync(files, options)).duite
    for (const [name, service] of Object.entries(SERVICES)) {
      const stub = new v1[service](address, grpc.credentials.createInsecure())
      this[name] = {}
      for (const method of Object.keys(v1[service].service)) {
        this[name][method] = promisify(stub[method].bind(stub))
      }
    }
  }

  // Submits a task with a JSON input.
  async submit (type, value, fields = {}) {
    const task = { type, input: json(value), ...fields }
    const request = { parent: this.parent, task, request_id: randomUUID() }
    return (await this.tasks.CreateTask(request)).task
  }

  // Reports failures of code that runs outside of tasks.
  async report (taskType, failures) {
    const reports = failures.map((failure) => ({
      report_id: randomUUID(), task_type: taskType, failure
    }))
    for (let first = 0; first < reports.length; first += REPORTS_PER_CALL) {
      const some = reports.slice(first, first + REPORTS_PER_CALL)
      // An answer may be lost: each report counts once, however often it is sent.
      for (let time = 0; time < 2; time++) {
        await this.errors.ReportFailures({ parent: this.parent, reports: some })
      }
    }
  }
}

// What the API keeps of an error, with the span it was raised in and up to 8 causes.
function failureOf (error, depth = 0) {
  const stack = error.stack ?? ''
  const own = stack.split('\n').find((line) => /^ +at .*[\\/]/.test(line) &&
    !/node_modules|node:/.test(line))
  const [, name, file] = /at (?:async )?(?:(.*?) \()?(?:file:\/\/)?(.*?):\d+/.exec(own ?? '') ?? []
  // Without how it was called, as a function or in an object.
  const plain = name?.replace(/ \[as .*/, '').replace(/^Object\.(?!<)/, '') ?? '<anonymous>'
  const carrier = {}
  if (depth === 0) propagation.inject(context.active(), carrier)
  return {
    category: 'CATEGORY_APPLICATION',
    type: error.name,
    message: error.message,
    stack_trace: stack.slice(0, STACK_LIMIT),
    runtime: RUNTIME,
    location: file ? `${path.basename(file)}:${plain}` : '',
    retryable: error.retryable ?? true,
    trace_context: carrier.traceparent ? carrier : null,
    cause: error.cause instanceof Error && depth < 8 ? failureOf(error.cause, depth + 1) : null
  }
}

const json = (value) =>
  ({ content_type: 'application/json', data: Buffer.from(JSON.stringify(value)) })

module.exports = { Client, failureOf, json }
