// The words of the scenario as messages, and messages as the words that are printed.
'use strict'

const path = require('node:path')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')
const protobuf = require('protobufjs')

const PROTOS = process.env.DUITE_PROTOS ?? path.join(__dirname, '../../../proto')

// Names as in the files, 64-bit integers as text (a number of JavaScript has 53 bits), enum values
// by name, fields that did not come with their defaults, and for each oneof which field is set.
const { duite } = grpc.loadPackageDefinition(loadSync(
  ['duite/v1/task_service.proto', 'duite/v1/state_service.proto', 'duite/v1/worker_service.proto'],
  { includeDirs: [PROTOS], keepCase: true, longs: String, enums: String, defaults: true, oneofs: true }))

// A line: `verb key=value key=value`.
class Step {
  constructor (line) {
    const [verb, ...words] = line.split(' ')
    this.verb = verb
    this.words = words.map((word) => cut(word, '='))
  }

  get (key) { return this.words.find(([name]) => name === key)?.[1] ?? '' }
  // The words `key=K:V`.
  pairs (key) {
    const found = this.words.filter(([name]) => name === key)
    return Object.fromEntries(found.map(([, word]) => cut(word, ':')))
  }
}

function cut (text, mark) {
  const at = text.indexOf(mark)
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + mark.length)]
}

// Data, values and updates, as the scenario writes them.

const pattern = (size) => Buffer.from(Array.from({ length: size }, (_, i) => i % 251))
const sum = (data) => data.reduce((sum, byte) => sum + byte, 0)

function payload (text) {
  const data = text.startsWith('@') ? pattern(Number(text.slice(1))) : Buffer.from(text)
  return text && { content_type: 'text/plain', data }
}

function showPayload (name, given) {
  const data = given?.data ?? Buffer.of()
  if (data.length === 0) return ''
  return ` ${name}=` + (data.length <= 100 ? data.toString() : `@${data.length},${sum(data)}`)
}

const seconds = (text) => {
  const whole = Math.floor(Number(text))
  return { seconds: whole, nanos: Math.round((Number(text) - whole) * 1e9) }
}

function valueOf (word, number) {
  const [kind, text] = cut(word, ':')
  const items = text.split(',')
  switch (kind) {
    case 'int': return { integer: text === '#' ? number : text }
    case 'number': return { number: Number(text) }
    case 'text': return { text }
    case 'bool': return { boolean: text === 'true' }
    case 'list': return { list: { items: items.map((integer) => ({ integer })) } }
    case 'map': {
      const entries = []
      for (let i = 0; i < items.length; i += 2) {
        entries.push({ key: items[i], value: { integer: items[i + 1] } })
      }
      return { map: { entries } }
    }
    case 'time': return { time: { seconds: text } }
    case 'blob': return { blob: { content_type: items[0], data: pattern(Number(items[1])) } }
    default: return { null: true }
  }
}

function showValue (value) {
  switch (value?.kind) {
    case 'integer': return `int:${value.integer}`
    case 'number': return `number:${value.number.toFixed(3)}`
    case 'text': return `text:${value.text}`
    case 'boolean': return `bool:${value.boolean}`
    case 'list': return `list:${value.list.items.map((item) => item.integer).join(',')}`
    case 'map': return 'map:' + value.map.entries.map((e) => `${e.key},${e.value.integer}`).join(',')
    case 'time': return `time:${value.time.seconds}`
    case 'blob': {
      const { content_type: type, data } = value.blob
      return `blob:${type},${data.length},${sum(data)}`
    }
    default: return 'null:' // also a kind of a later version
  }
}

function updatesOf (step, number) {
  const updates = []
  for (const [name, word] of step.words) {
    const [key, text] = cut(word, ':')
    if (name === 'delete') updates.push({ key, delete: true })
    if (['put', 'add', 'max', 'min'].includes(name)) updates.push({ key, [name]: valueOf(text, number) })
  }
  return updates
}

const showMap = (name, entries) =>
  Object.keys(entries ?? {}).sort().map((key) => ` ${name}=${key}:${entries[key]}`).join('')
const optional = (name, text) => text ? ` ${name}=${text}` : ''
const short = (name) => name.slice(name.lastIndexOf('/') + 1)
// Of an enum's value; a number, where a later version has added it.
const plain = (value, prefix) => String(value).replace(prefix, '')

// Errors.

// grpc-js gives the details as bytes in the trailing metadata; protobufjs, which proto-loader is made of,
// reads them.
const root = new protobuf.Root()
root.resolvePath = (_, file) => file.startsWith('google/protobuf/any')
  ? path.join(path.dirname(require.resolve('protobufjs/package.json')), file)
  : path.join(PROTOS, file)
root.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto'], { keepCase: true })

function statusOf (error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? []
  return bytes ? root.lookupType('google.rpc.Status').decode(bytes) : { code: error.code, details: [] }
}

// `CODE REASON`, of a `google.rpc.Status`.
function showStatus (status) {
  let [reason, field] = ['-', '']
  for (const { type_url: url, value } of status.details) {
    const detail = root.lookupType(short(url)).decode(value)
    if (url.endsWith('/google.rpc.ErrorInfo') && detail.domain === 'duite') reason = detail.reason
    if (url.endsWith('/google.rpc.BadRequest')) field = ` field=${detail.field_violations[0].field}`
  }
  return `${grpc.status[status.code]} ${reason}${field}`
}

module.exports = {
  Step, duite, grpc, optional, payload, plain, seconds, short, showMap, showPayload, showStatus, showValue, statusOf,
  updatesOf, valueOf
}
