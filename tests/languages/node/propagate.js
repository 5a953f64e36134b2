// Submits a task within a span and runs it: propagate.js HOST:PORT PROTOS. Prints the ids as JSON.
'use strict'

const { trace } = require('@opentelemetry/api')
const { registerInstrumentations } = require('@opentelemetry/instrumentation')
const { GrpcInstrumentation } = require('@opentelemetry/instrumentation-grpc')
const { NodeTracerProvider } = require('@opentelemetry/sdk-trace-node')

new NodeTracerProvider().register()
// Before gRPC is loaded.
registerInstrumentations({ instrumentations: [new GrpcInstrumentation()] })
const { Client } = require('./duite_client')
const { Worker } = require('./duite_worker')

async function main ([address, protos]) {
  const client = new Client(address, protos)
  const [submitter, task] = await trace.getTracer('submitter').startActiveSpan('submit',
    async (span) => {
      const task = await client.submit('render', { tile: 7 })
      span.end()
      return [span.spanContext(), task]
    })
  let handler
  const render = (task) => {
    handler = trace.getActiveSpan()
    return { attempt: task.attempt }
  }
  const [lease] = await new Worker(client, { render }).runSome()
  console.log(JSON.stringify({
    task: task.name,
    trace_id: submitter.traceId,
    lease: lease.trace_context?.traceparent ?? '',
    handler_trace_id: handler.spanContext().traceId,
    handler_parent_id: handler.parentSpanContext?.spanId ?? ''
  }))
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error)
  process.exitCode = 1
})
