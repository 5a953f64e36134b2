"""The streams that a client opens again after a break: watches and pushes."""

import queue

from duite.v1 import state_service_pb2 as states
from duite.v1 import watch_pb2 as watches

from words import enum

STREAM_SECONDS = 120


class Watch:
    """A watch of states or tasks: the view it has told, and the token to go on with.

    `call` opens it, given the options; `changes` gives (name, text or None) for what a snapshot or
    a delta brings.
    """

    def __init__(self, call, changes):
        self.call, self.changes = call, changes
        self.view, self.revision, self.token = {}, 0, b""
        self.chain, self.ended = True, False

    def open(self):
        """Reads up to `synced`. Gives how it started."""
        self.stream = self.call(watches.WatchOptions(resume_token=self.token))
        started = ""
        while True:
            frame = next(self.stream)
            kind = frame.WhichOneof("frame")
            if kind == "opened":
                started = enum(frame.opened, "start", "START_")
            self.take(frame, kind)
            if kind == "synced":
                return started

    def take(self, frame, kind):
        """Says whether the view is complete after the frame."""
        start = frame.opened.start
        if kind == "reset" or start == watches.WatchOpened.START_SNAPSHOT:
            self.view, self.revision = {}, 0
        elif kind == "snapshot":
            self.apply(frame.snapshot)
        elif kind == "delta":
            self.chain = self.chain and frame.delta.base_revision == self.revision
            self.apply(frame.delta)
            if not frame.delta.more:
                return self.hold(frame.delta.position)
        elif kind in ("synced", "bookmark"):
            return self.hold(getattr(frame, kind).position)
        return False

    def apply(self, part):
        for name, text in self.changes(part):
            if text is None:
                self.view.pop(name, None)
            else:
                self.view[name] = text

    def hold(self, position):
        self.chain = self.chain and position.revision >= self.revision
        self.revision, self.token = position.revision, position.resume_token
        return True

    def until(self, name, wanted):
        """Reads on until the view has that, or to the end."""
        complete = True
        while not (complete and self.view.get(name, "absent") == wanted):
            frame = next(self.stream, None)
            if frame is None:  # OK: anything else is an exception
                if name != "end":
                    raise EOFError("the watch ended")
                return
            complete = self.take(frame, frame.WhichOneof("frame"))

    def show(self):
        return "".join(f" {name}={text}" for name, text in sorted(self.view.items()))


class Pen:
    """A writer of a state: what it has sent and not heard to be durable, to be sent again."""

    def __init__(self, stub, opening):
        self.stub, self.opening = stub, opening
        self.unacked, self.acked, self.sent, self.rejected = {}, 0, 0, []

    def open(self):
        """Gives the last sequence that is durable, and drops what that makes known."""
        self.frames = queue.SimpleQueue()
        self.stream = self.stub.PushState(iter(self.frames.get, None), timeout=STREAM_SECONDS)
        self.frames.put(states.PushStateRequest(open=self.opening))
        opened = next(self.stream).opened
        self.window = opened.window.max_unacked_batches
        self.drop(opened.last_sequence)
        return opened.last_sequence

    def drop(self, acked):
        self.acked = max(self.acked, acked)
        self.unacked = {number: b for number, b in self.unacked.items() if number > acked}

    def send(self, batch):
        while len(self.unacked) >= self.window:
            self.read()
        if batch.sequence > self.acked:
            self.unacked[batch.sequence] = batch
        self.sent = max(self.sent, batch.sequence)
        self.write(batch)

    def write(self, batch):
        batches = states.UpdateBatches(batches=[batch])
        self.frames.put(states.PushStateRequest(batches=batches))

    def read(self):
        """Takes one frame. Gives the number expected where it is a rewind."""
        frame = next(self.stream)
        kind = frame.WhichOneof("frame")
        if kind == "ack":
            self.drop(frame.ack.acked_sequence)
            self.window = frame.ack.window.max_unacked_batches
            self.rejected += frame.ack.rejected
        elif kind == "rewind":
            expected = frame.rewind.expected_sequence
            self.unacked = {n: batch for n, batch in self.unacked.items() if n < expected}
            self.sent = expected - 1
            return expected
        return None

    def show_rejected(self):
        told, self.rejected = self.rejected, []
        return "".join(f" rejected={r.sequence}:{r.key}:{r.reason}" for r in told)
