"""The two lanes of a StateQueue: large values never delay small ones.

A flush with a value above 64 KiB goes, whole, to the *large* lane, any other to the *small* one.
Each is a writer with a stream and a connection of its own, so they would overtake each other. What
keeps each key's updates in the program's order:

- A flush with a key that the large lane holds joins it there. When everything in the large lane is
  durable, it holds no key any more.
- A large flush is not sent before everything that was flushed to the small lane until then is
durable.

The small lane waits for nothing, so there is no deadlock. (The Rust library lets small flushes go
on beside a large one of the same key that is sent already; here they go behind it.)
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from duite import _encode, _last_words
from duite._connection import channel
from duite._exits import before_exit
from duite._last_words import Unsent
from duite._push_core import Counters, PushCore
from duite._push_stream import Lane

log = logging.getLogger("duite")

# Values above this, encoded, are large: the server keeps them out of line.
LARGE_VALUE_BYTES = 64 << 10
# Rejected keys that are remembered; more are only counted.
MAX_REJECTED = 1000
# How long a process that ends waits for what was flushed, in seconds.
EXIT_FLUSH_SECONDS = 5.0


class Pusher:
    """What sends a StateQueue's flushes. It outlives the queue until everything is durable."""

    def __init__(
        self,
        address: str,
        state: str,
        lease: bytes = b"",
        *,
        fold: bool = True,
        use_large_lane: bool = True,
        on_directive: Callable[[str], None] | None = None,
        on_acked: Callable[[int, list[tuple[str, str]]], None] | None = None,
    ) -> None:
        self.address, self.state, self.lease = address, state, lease
        self._fold, self._use_large_lane = fold, use_large_lane
        # `on_acked` is told how many flushes of the small lane are durable, in all, and the keys
        # newly rejected; instead of the log. On the lane's thread, without the lock.
        self._on_directive, self._on_acked = on_directive, on_acked
        # Loads gRPC on this thread, or else a fork may come in the middle of it. Connects nothing.
        channel(address, "push")
        self._begin()
        _pushers.add(self)

    def _begin(self) -> None:
        # Held for moments by the program's threads and ours.
        self.lock = threading.Lock()
        self._progress = threading.Condition(self.lock)
        self._waiting = 0
        self.small = Lane(self, "push", PushCore(self._fold))
        self.large = Lane(self, "large_push", PushCore(self._fold, most_segments=2))
        self._large_keys: set[str] = set()
        self.rejected: dict[str, str] = {}
        self.rejections = self.refused = 0
        self.over = self.abandoned = self._let_go = False
        # No stream can be opened any more, since the process ends.
        self.stuck = False
        self.over_event = threading.Event()
        self.last_error: BaseException | None = None
        self.heard_at = 0.0

    def flush(self, entries: Mapping[str, Any], heavy: int, longest: int, plain: bool) -> None:
        """Takes one flush. `entries` is copied, its values must not change any more."""
        with self.lock:
            if self.over:
                self.refused += 1
                return
            is_large = self._use_large_lane and longest > LARGE_VALUE_BYTES
            if not is_large and not (self._large_keys and not self._large_keys.isdisjoint(entries)):
                lane = self.small
                lane.core.flush(entries, heavy, plain)
            else:
                lane = self.large
                self._large_keys.update(entries)
                small = self.small.core
                after = small.counters.flushes if small.is_on_its_way() else 0
                lane.core.flush(entries, heavy, plain, after)
        if lane.waiter.idle or lane.thread is None:
            lane.wake()

    def moved(self) -> Lane | None:
        """Carries what one lane has reached over to the other. Under the lock. Gives a lane that
        may go on."""
        large = self.large.core
        large.reached = self.small.core.counters.acked_flushes
        if self._large_keys and large.is_settled:
            self._large_keys.clear()
        if self._waiting:
            self._progress.notify_all()
        return self.large if large.is_on_its_way() else None

    @property
    def is_settled(self) -> bool:
        """Whether everything that was flushed is durable."""
        return self.small.core.is_settled and self.large.core.is_settled

    def wait(self, done: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until `done()`, which is called under the lock; false when the time is over, or the
        lane is."""
        until = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            self._waiting += 1
            try:
                while not done():
                    left = None if until is None else until - time.monotonic()
                    if self.over or (left is not None and left <= 0):
                        return False
                    self._progress.wait(left)
                return True
            finally:
                self._waiting -= 1

    def marks(self) -> list[tuple[str, str, int]]:
        """The last batch of each writer, with everything flushed so far in them."""
        with self.lock:
            lanes = [lane for lane in (self.small, self.large) if lane.core.is_used]
            for lane in lanes:
                lane.core.seal()
            marks = [(self.state, lane.core.writer, lane.core.last_sequence) for lane in lanes]
        for lane in lanes:
            lane.wake()
        return marks

    def finish(self) -> None:
        """Marks what was flushed last as the writers' last. A flush after it begins a new
        writer."""
        with self.lock:
            lanes = [lane for lane in (self.small, self.large) if lane.core.is_used]
            for lane in lanes:
                lane.core.finish()
        for lane in lanes:
            lane.wake()

    def abandon(self) -> None:
        """The queue is gone: what was flushed is sent, then the threads end. Takes no lock: the
        collector of garbage may call it on a thread that holds ours."""
        self.abandoned = True
        for lane in (self.small, self.large):
            lane.waiter.wake()

    def finish_if_abandoned(self) -> None:
        """For our threads: does what `abandon` asked for, once."""
        if self.abandoned and not self._let_go:
            self._let_go = True
            self.finish()

    def end(self, error: BaseException | None) -> None:
        """Takes and sends nothing more."""
        with self.lock:
            if self.over:
                return
            self.over = True
            self.last_error = error or self.last_error
            cores = (self.small.core, self.large.core)
            lost = sum(len(core.segments) + len(core.numbered) for core in cores)
            # Batches that are nothing but the mark of the end.
            lost -= sum(it.final and not it.flushes for core in cores for it in core.numbered)
            # The mark of its end came after the attempt's, when all it wrote was merged.
            is_done = not lost and all(core.finished for core in cores if core.is_used)
            self._progress.notify_all()
        self.over_event.set()
        self.acked([])
        for lane in (self.small, self.large):
            lane.waiter.wake()
        if error is None:
            # Or else what is called would be held for as long as the process.
            self._on_directive = None
        else:
            log.log(
                logging.DEBUG if is_done else logging.WARNING,
                "state %s is no longer written by this queue, %d batches are given up: %s",
                self.state,
                lost,
                error,
            )

    def give_up_streams(self) -> None:
        """The process ends, and no stream can be opened any more."""
        with self.lock:
            self.stuck = True
            self._progress.notify_all()

    def unsent(self) -> list[Unsent]:
        """What is not known to be durable, for another process to send."""
        now = _encode.timestamp(*divmod(time.time_ns(), 1_000_000_000))
        with self.lock:
            left: list[Unsent] = []
            for core in (self.small.core, self.large.core):
                core.seal()
                batches = [batch.encode(now) for batch in core.numbered]
                if batches:
                    left.append(
                        Unsent(
                            self.address, self.state, self.lease, core.writer, core.first, batches
                        )
                    )
            return left

    def directive(self, kind: str) -> None:
        """Passes on what the server wants: `cancel` or `lost`, which is the last word."""
        call = self._on_directive
        if kind == "lost":
            self._on_directive = None
        if call is not None:
            call(kind)

    def acked(self, rejected: list[tuple[str, str]]) -> None:
        """Tells of progress, and keeps and tells of keys that the server did not take."""
        self.rejections += len(rejected)
        if self._on_acked is not None:
            self._on_acked(self.small.core.counters.acked_flushes, rejected)
            return
        for key, reason in rejected:
            if self.rejected.get(key) == reason:
                continue
            if key in self.rejected or len(self.rejected) < MAX_REJECTED:
                self.rejected[key] = reason
                log.warning("key %r of state %s was not accepted: %s", key, self.state, reason)

    def flush_at_exit(self) -> None:
        """Makes the end of the process wait a little for what was flushed."""
        before_exit(_at_exit, priority=10)

    def counters(self) -> Counters:
        """What both lanes have done."""
        with self.lock:
            both = [vars(lane.core.counters) for lane in (self.small, self.large)]
        return Counters(**{name: both[0][name] + both[1][name] for name in both[0]})

    def after_fork(self) -> None:
        """What the parent has flushed is the parent's to send; here begin new writers."""
        self._begin()


_pushers: weakref.WeakSet[Pusher] = weakref.WeakSet()


def _at_exit() -> None:
    """A process that ends gives its last updates a bounded time."""
    until = time.monotonic() + EXIT_FLUSH_SECONDS
    # For what is durable already, the mark of the end is not worth a wait.
    pushers = [pusher for pusher in _pushers if not pusher.is_settled]
    for pusher in pushers:
        pusher.finish()
    for pusher in pushers:
        pusher.wait(
            lambda pusher=pusher: pusher.is_settled or pusher.stuck, until - time.monotonic()
        )
    left = [it for pusher in pushers if pusher.stuck and not pusher.over for it in pusher.unsent()]
    if left and not _last_words.send(left, max(until - time.monotonic(), 1)):
        log.warning("the last updates of %d writers could not be sent", len(left))


def _after_fork() -> None:
    for pusher in list(_pushers):
        pusher.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
