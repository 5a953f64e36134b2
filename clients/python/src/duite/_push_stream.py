"""One lane of a StateQueue: a thread that keeps a PushState stream open while there is something to
send, and hands what the server says to the core.

Frames are built when gRPC asks for one, from what is ready at that moment. gRPC asks from a thread
of its own (the *consumer*); the lane's thread reads the answers. Where the program keeps the
interpreter's lock busy, each hand-over between threads costs milliseconds: so there are few of
them, and each takes all there is.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import grpc

from duite import _encode
from duite._backoff import Backoff
from duite._connection import Purpose, channel
from duite._fork import gate
from duite._push_core import FRAME_BYTES, PushCore, WriterLost
from duite.errors import (
    DuiteError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unimplemented,
    from_rpc,
)
from duite.v1 import state_service_pb2 as pb

if TYPE_CHECKING:
    from duite._lanes import Pusher

log = logging.getLogger("duite")

# A stream that is not opened by then is given up.
OPEN_DEADLINE = 10.0
# So long may something sent wait for its acknowledgement before the stream is given up.
ACK_DEADLINE = 30.0
# Batches that the writer would like to have on their way.
WANTED_WINDOW = 4096
# An outage is told of once, after so long.
TELL_AFTER = 10.0
# What no later stream can do better.
_FINAL = (InvalidArgument, NotFound, FailedPrecondition, Unauthenticated, Unimplemented)

_KEEPALIVE = pb.PushStateRequest(keepalive=pb.PushKeepalive()).SerializeToString()

End = Literal["settled", "again", "broken", "over", "forked"]


class Waiter:
    """Lets one thread sleep until others wake it. Waking one that does not sleep costs a look at a
    field."""

    __slots__ = ("_latch", "idle")

    def __init__(self) -> None:
        self.idle = False
        self._latch = threading.Lock()
        self._latch.acquire()

    def wait(self, timeout: float) -> None:
        """To be called with `idle` set, after a look that found nothing to do."""
        self._latch.acquire(timeout=max(timeout, 0))
        self.idle = False

    def wake(self) -> None:
        """Ends the wait, or the next one."""
        if self.idle:
            self.idle = False
            # An error: somebody else was faster.
            with contextlib.suppress(RuntimeError):
                self._latch.release()


class Lane:
    """A writer with its stream. Everything of the core's is done under the pusher's lock."""

    def __init__(self, pusher: Pusher, purpose: Purpose, core: PushCore) -> None:
        self.pusher, self.core = pusher, core
        self.purpose: Purpose = purpose
        self.waiter = Waiter()
        self.thread: threading.Thread | None = None
        self.streams = 0
        self._call: Any = None
        self._interrupted = False

    def wake(self) -> None:
        """There may be something to send. Starts the lane where it was not used before."""
        if self.thread is None:
            self.start()
        else:
            self.waiter.wake()

    def start(self) -> None:
        """Starts the thread, once."""
        with self.pusher.lock:
            if self.thread is not None:
                return
            name = f"duite {self.purpose} {self.pusher.state}"
            self.thread = threading.Thread(target=self._run, name=name[-64:], daemon=True)
        self.pusher.flush_at_exit()
        try:
            self.thread.start()
        except RuntimeError as error:
            # The next flush tries again.
            self.thread = None
            self._cannot_begin_threads(error)

    def _cannot_begin_threads(self, error: RuntimeError) -> None:
        if "interpreter shutdown" in str(error):
            self.pusher.give_up_streams()
        else:
            log.warning("state %s cannot be written for now: %s", self.pusher.state, error)

    def _run(self) -> None:
        backoff = Backoff.for_streams()
        away_since: float | None = None
        told = False
        while self._wait_for_work():
            gate.enter(self)
            try:
                end = self._stream(backoff)
            except Exception as error:
                if isinstance(error, RuntimeError) and "interpreter shutdown" in str(error):
                    self._cannot_begin_threads(error)
                    return
                log.exception("a push stream of state %s failed", self.pusher.state)
                self.pusher.last_error = error
                end = "broken"
            finally:
                gate.leave(self)
            with self.pusher.lock:
                self.core.on_disconnect()
                again = self.core.begin_again()
                if end == "settled" and not again and not self.core.is_on_its_way():
                    continue
            if end == "over":
                return
            if end == "again":
                # The server goes away, or has forgotten the writer: not all come back at once.
                self.pusher.over_event.wait(random.uniform(0, 0.2))
            if end != "broken":
                away_since, told = None, False
                continue
            now = time.monotonic()
            if self.pusher.heard_at > (away_since or 0):
                away_since, told = now, False
            away_since = away_since or now
            if now - away_since > TELL_AFTER and not told:
                told = True
                log.warning(
                    "state %s cannot be written for now, and is tried again until it can: %s",
                    self.pusher.state,
                    self.pusher.last_error,
                )
            wait = backoff.next_wait() + (getattr(self.pusher.last_error, "retry_after", None) or 0)
            self.pusher.over_event.wait(wait)

    def interrupt(self) -> None:
        """Ends the stream for the moment of a fork."""
        self._interrupted = True
        if self._call is not None:
            self._call.cancel()

    def _wait_for_work(self) -> bool:
        """False: there will never be any again."""
        waiter = self.waiter = Waiter()
        while True:
            waiter.idle = True
            self.pusher.finish_if_abandoned()
            with self.pusher.lock:
                if self.pusher.over:
                    return False
                if self.core.is_on_its_way():
                    self.core.begin_again()
                    return True
                if self.pusher.abandoned:
                    # Nobody can flush any more. A flush that comes all the same starts it anew.
                    self.thread = None
                    return False
            waiter.wait(3600)

    def _stream(self, backoff: Backoff) -> End:
        """One stream, from its opening to its end."""
        self.streams += 1
        self._interrupted = False
        frames = Frames(self)
        self.waiter = frames.waiter
        connection: Any = channel(self.pusher.address, self.purpose)
        push: Any = connection.stream_stream(
            "/duite.v1.StateService/PushState",
            request_serializer=None,
            response_deserializer=pb.PushStateResponse.FromString,
        )
        call: Any = push(frames)
        frames.call = self._call = call
        try:
            answer: pb.PushStateResponse
            for answer in call:
                frames.heard = time.monotonic()
                kind = answer.WhichOneof("frame")
                if kind == "ack":
                    backoff.reset()
                    self._on_ack(answer.ack)
                elif kind == "opened":
                    self._on_opened(answer.opened, frames)
                elif kind == "rewind":
                    with self.pusher.lock:
                        self.core.on_rewind(answer.rewind.expected_sequence)
                elif kind == "directive" and self._on_directive(answer.directive):
                    return "over"
                with self.pusher.lock:
                    settled = self.core.finished and not self.core.numbered
                    done = settled or self.core.is_drained or self.pusher.over
                if done:
                    # Closes our side; the server then ends its own.
                    frames.end()
                else:
                    frames.waiter.wake()
            if self.pusher.over:
                return "over"
            if not frames.done:
                self.pusher.last_error = DuiteError(
                    "the server ended the stream", code="UNAVAILABLE"
                )
                return "broken"
            return "again" if self.core.is_draining else "settled"
        except WriterLost:
            return self._new_writer()
        except grpc.RpcError as failed:
            return self._on_error(from_rpc(failed, f"write to state {self.pusher.state}"), frames)
        finally:
            frames.end()
            call.cancel()
            if self._interrupted and frames.consumer is not None:
                # A fork comes: it must find nobody within gRPC.
                frames.consumer.join(1)

    def _on_opened(self, opened: pb.PushOpened, frames: Frames) -> None:
        keepalive = opened.keepalive_interval.ToTimedelta().total_seconds()
        with self.pusher.lock:
            window = opened.window
            self.core.on_opened(
                opened.last_sequence, window.max_unacked_batches, window.max_unacked_bytes
            )
            self.pusher.moved()
        self.pusher.acked([])
        frames.keepalive = max(keepalive, 0.1) if keepalive else frames.keepalive
        frames.opened = True

    def _on_ack(self, ack: pb.PushAck) -> None:
        pusher = self.pusher
        with pusher.lock:
            self.core.on_ack(ack.acked_sequence)
            if ack.HasField("window"):
                self.core.set_window(ack.window.max_unacked_batches, ack.window.max_unacked_bytes)
            other = pusher.moved()
        pusher.heard_at = time.monotonic()
        if other is not None and other is not self:
            other.wake()
        pusher.acked([(rejected.key, rejected.reason) for rejected in ack.rejected])

    def _on_directive(self, directive: pb.PushDirective) -> bool:
        kinds = pb.PushDirective
        if directive.kind == kinds.KIND_CANCEL_REQUESTED:
            self.pusher.directive("cancel")
        elif directive.kind == kinds.KIND_LEASE_LOST:
            self._lease_lost(directive.message)
            return True
        elif directive.kind == kinds.KIND_RECONNECT:
            with self.pusher.lock:
                self.core.on_drain()
        return False

    def _on_error(self, error: DuiteError, frames: Frames) -> End:
        if error.reason == "LEASE_LOST":
            self._lease_lost(error.message)
            return "over"
        if error.reason == "WRITER_EXPIRED":
            return self._new_writer()
        if isinstance(error, _FINAL):
            self.pusher.end(error)
            return "over"
        if self._interrupted:
            return "forked"
        if frames.done and error.code in ("CANCELLED", "UNAVAILABLE"):
            return "again"
        self.pusher.last_error = error
        log.debug("a push stream of state %s broke and is resumed: %s", self.pusher.state, error)
        return "broken"

    def _lease_lost(self, message: str) -> None:
        error = DuiteError(message or "the lease is over", reason="LEASE_LOST", code="ABORTED")
        self.pusher.end(error)
        self.pusher.directive("lost")

    def _new_writer(self) -> End:
        with self.pusher.lock:
            count = self.core.restart_writer()
        log.warning(
            "the server has forgotten a writer of state %s: %d batches that were not acknowledged "
            "are sent again and may take effect twice",
            self.pusher.state,
            count,
        )
        return "again"


class Frames(Iterator[bytes]):
    """Our side of one stream, frame by frame as the connection has room."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.waiter = Waiter()
        self.call: Any = None
        self.done = self.opened = False
        self.consumer: threading.Thread | None = None
        self.keepalive = 10.0
        self.heard = self._sent = time.monotonic()
        pusher = lane.pusher
        self._open: bytes | None = pb.PushStateRequest(
            open=pb.PushOpen(
                state_name=pusher.state,
                writer_id=lane.core.writer,
                lease_token=pusher.lease,
                wanted_window=WANTED_WINDOW,
            )
        ).SerializeToString()

    def end(self) -> None:
        """Closes our side. What is ready goes out with another stream."""
        self.done = True
        self.waiter.wake()

    def __next__(self) -> bytes:
        if self._open is not None:
            self.consumer = threading.current_thread()
            frame, self._open = self._open, None
            return frame
        waiter = self.waiter
        while not self.done:
            waiter.idle = True
            self._lane.pusher.finish_if_abandoned()
            frame = self._next_frame()
            now = time.monotonic()
            if frame is None and now - self._sent >= self.keepalive and self.opened:
                frame = _KEEPALIVE
            if frame is not None:
                waiter.idle = False
                self._sent = now
                return frame
            if self.done:
                break
            waits = self._lane.core.cursor > 0 or not self.opened
            patience = ACK_DEADLINE if self.opened else OPEN_DEADLINE
            if waits and now - max(self.heard, self._sent) > patience and self.call is not None:
                # The lane's thread sees the end of the stream.
                self.call.cancel()
                break
            until = self._sent + self.keepalive
            waiter.wait(min(until - now, 5.0) if waits else until - now)
        raise StopIteration

    def _next_frame(self) -> bytes | None:
        core, lock = self._lane.core, self._lane.pusher.lock
        varint = _encode.varint
        while True:
            with lock:
                generation = core.generation
                sequence, ready = core.take()
                free = core.window_bytes - core.in_flight_bytes
                if core.in_flight_bytes == 0:
                    # Nothing was waited for until now.
                    self.heard = time.monotonic()
            if not ready or self.done:
                return None
            seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
            now = _encode.timestamp(seconds, nanos)
            parts: list[bytes] = []
            sizes: list[int] = []
            total = 0
            for batch in ready:
                body = batch.encode(now)
                number = varint(sequence)
                length = varint(len(body) + len(number) + 1)
                size = len(body) + len(number) + len(length) + 2
                if sizes and (total + size > FRAME_BYTES or total + size > free):
                    break
                total += size
                parts += (b"\x0a", length, b"\x08", number, body)
                sizes.append(size)
                sequence += 1
            with lock:
                if not core.sent(generation, sizes):
                    continue
            return b"".join((b"\x12", varint(total), *parts))
