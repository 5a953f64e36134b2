// The streams that a client opens again after a break: watches and pushes.
'use strict'

const { plain } = require('./words')

const STREAM_MS = 120_000

// The frames of a call, read one by one: null at its end with OK; any other end throws its error.
class Frames {
  constructor (call) {
    this.call = call
    this.frames = call[Symbol.asyncIterator]()
  }

  async next () {
    const { done, value } = await this.frames.next()
    return done ? null : value
  }

  cancel () {
    this.call.on('error', () => {}) // CANCELLED; without a listener it would end the program
    this.call.cancel()
  }
}

// A watch of states or tasks: the view it has told, and the token to go on with. `open` makes the
// call, given the options; `changes` gives [name, text or null] for what a snapshot or delta brings.
class Watch {
  constructor (call, changes, token = '') {
    Object.assign(this, { call, changes, token: Buffer.from(token), view: new Map(), revision: 0n })
  }

  // Reads up to `synced`. Gives how it started.
  async open () {
    this.frames = new Frames(this.call({ resume_token: this.token }))
    this.chain = true
    for (let started = ''; ;) {
      const frame = await this.frames.next()
      if (frame.opened) started = plain(frame.opened.start, 'START_')
      this.take(frame)
      if (frame.synced) return started
    }
  }

  // Says whether the view is complete after the frame.
  take (frame) {
    const { opened, reset, snapshot, delta, synced, bookmark } = frame
    if (reset || opened?.start === 'START_SNAPSHOT') {
      this.view = new Map()
      this.revision = 0n
    } else if (snapshot) {
      this.apply(snapshot)
    } else if (delta) {
      this.chain &&= BigInt(delta.base_revision) === this.revision
      this.apply(delta)
      return !delta.more && this.hold(delta.position)
    } else if (synced || bookmark) {
      return this.hold((synced ?? bookmark).position)
    }
    return false
  }

  apply (part) {
    for (const [name, text] of this.changes(part)) {
      if (text === null) this.view.delete(name)
      else this.view.set(name, text)
    }
  }

  hold (position) {
    const revision = BigInt(position.revision)
    this.chain &&= revision >= this.revision
    this.revision = revision
    this.token = position.resume_token
    return true
  }

  // Reads on until the view has that, or to the end where `name` is `end`.
  async until (name, wanted) {
    for (let complete = true; !(complete && (this.view.get(name) ?? 'absent') === wanted);) {
      const frame = await this.frames.next()
      if (!frame && name === 'end') return
      if (!frame) throw new Error('the watch ended')
      complete = this.take(frame)
    }
  }

  show () {
    return [...this.view].sort(([a], [b]) => a < b ? -1 : 1).map(([name, text]) => ` ${name}=${text}`).join('')
  }

  cancel () { this.frames.cancel() }
}

// A writer of a state: what it has sent and not heard to be durable, to be sent again.
class Pen {
  constructor (states, opening) {
    Object.assign(this, { states, opening, unacked: [], acked: 0, sent: 0, rejected: '' })
  }

  // Gives the last sequence that is durable, and drops what that makes known.
  async open () {
    this.call = this.states.PushState({ deadline: Date.now() + STREAM_MS })
    this.frames = new Frames(this.call)
    this.call.write({ open: this.opening })
    const { opened } = await this.frames.next()
    this.window = opened.window.max_unacked_batches
    this.drop(Number(opened.last_sequence))
    return Number(opened.last_sequence)
  }

  drop (acked) {
    this.acked = Math.max(this.acked, acked)
    this.unacked = this.unacked.filter((batch) => batch.sequence > acked)
  }

  async send (batch) {
    while (this.unacked.length >= this.window) await this.read()
    if (batch.sequence > this.acked) this.unacked.push(batch)
    this.sent = Math.max(this.sent, batch.sequence)
    this.write(batch)
  }

  write (batch) { this.call.write({ batches: { batches: [batch] } }) }

  // Takes one frame and gives it, null at the end.
  async read () {
    const frame = await this.frames.next()
    if (frame?.ack) {
      this.drop(Number(frame.ack.acked_sequence))
      this.window = frame.ack.window.max_unacked_batches
      for (const { sequence, key, reason } of frame.ack.rejected) {
        this.rejected += ` rejected=${sequence}:${key}:${reason}`
      }
    }
    if (frame?.rewind) {
      const expected = Number(frame.rewind.expected_sequence)
      this.unacked = this.unacked.filter((batch) => batch.sequence < expected)
      this.sent = expected - 1
    }
    return frame
  }

  showRejected () {
    const told = this.rejected
    this.rejected = ''
    return told
  }

  cancel () { this.frames.cancel() }
}

module.exports = { Frames, Pen, STREAM_MS, Watch }
