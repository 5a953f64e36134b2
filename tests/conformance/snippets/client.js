const { randomUUID } = require('node:crypto')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')

const files = ['duite/v1/task_service.proto', 'duite/v1/state_service.proto']
const options = { includeDirs: [process.env.DUITE_PROTOS], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }
const { v1 } = grpc.loadPackageDefinition(loadSync(files, options)).duite
const service = (name) => new v1[name](process.argv[2], grpc.credentials.createInsecure())
const parent = 'namespaces/default'
const state = `${parent}/states/run-1`

const submit = { parent, task: { type: 'train', state_name: state }, request_id: randomUUID() }
service('TaskService').CreateTask(submit, { deadline: Date.now() + 10_000 }, (error, answer) => {
  if (error) throw error
  console.log('submitted', answer.task.name)

  const watch = service('StateService').WatchState({ names: [state] })
  watch.on('data', ({ snapshot, delta }) => { // a snapshot first, then what changes
    for (const { key, value } of [...snapshot?.entries ?? [], ...delta?.changes ?? []]) {
      console.log(key, '=', value[value.kind])
      if (key === 'done') watch.cancel() // a watch does not end by itself
    }
  })
  watch.on('error', (error) => { if (error.code !== grpc.status.CANCELLED) throw error })
})
