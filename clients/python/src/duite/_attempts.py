"""The attempts that this worker runs, with their leases. Their keeper renews them; this is what the
worker itself knows, and the last resort where the keeper is away."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from duite._signals import Signals

if TYPE_CHECKING:
    from duite._run import Handler
    from duite.current import CurrentTask

log = logging.getLogger("duite")

# The keeper tells of a lease that is over. Where it is silent for so long beyond, the worker ends
# it.
_SWEEP_GRACE = 1.0
# Between two looks lies more than that: this process stood still, and news may wait to be read.
_STOOD_STILL = 1.5


class Attempt:
    """One attempt, from its lease to the answer to its outcome."""

    def __init__(
        self, token: bytes, name: str, until: float, every: float, handler: Handler
    ) -> None:
        self.token, self.name, self.handler = token, name, handler
        self.until, self.every = until, every
        self.signals = Signals()
        self.task: CurrentTask | None = None
        # The handler has ended: a lease that is gone from here on is no news, because the finish
        # may have closed it while a renewal was under way.
        self.ended = False
        # The worker gave the task back: its outcome counts no more.
        self.released = False
        self.overdue = False
        self.signals.listen(self._log_loss)

    def lose(self, why: str) -> bool:
        """The lease is lost. False: that was known, or is no news any more."""
        return not self.ended and self.signals.lose(why)

    def _log_loss(self) -> None:
        if self.released or self.ended or not self.signals.lost:
            return
        more = ""
        if self.handler.mode == "thread":
            more = "; its handler should stop, and its place is taken until it returns"
        why = self.signals.reason or "the server says so"
        log.warning("lost the lease of task %s: %s%s", self.name, why, more)


class Attempts:
    """All of a worker's attempts, and how many more it has room for. `on_silence` is called where
    the keeper should have spoken and has not."""

    def __init__(self, concurrency: int, on_silence: Callable[[], None] = lambda: None) -> None:
        self._on_silence = on_silence
        self._changed = threading.Condition()
        self._held: dict[bytes, Attempt] = {}
        self._free = concurrency
        self._running = 0
        self._swept = 0.0

    def add(self, attempt: Attempt) -> None:
        """Takes a place for an attempt."""
        with self._changed:
            self._held[attempt.token] = attempt
            self._free -= 1
            self._running += 1

    def handler_ended(self, attempt: Attempt) -> None:
        """Its place is free again; its lease is held until the outcome is told."""
        with self._changed:
            attempt.ended = True
            self._free += 1
            self._running -= 1
            self._changed.notify_all()

    def remove(self, token: bytes) -> None:
        """Its lease is held no more."""
        with self._changed:
            self._held.pop(token, None)
            self._changed.notify_all()

    def get(self, token: bytes) -> Attempt | None:
        """The attempt of that lease."""
        with self._changed:
            return self._held.get(token)

    def all(self) -> list[Attempt]:
        """Those whose lease is held."""
        with self._changed:
            return list(self._held.values())

    def running(self) -> int:
        """How many handlers run."""
        with self._changed:
            return self._running

    def wait_for_room(self, timeout: float) -> int:
        """How many more can begin; waits for the first."""
        with self._changed:
            self._changed.wait_for(lambda: self._free > 0, timeout)
            return max(0, self._free)

    def wait(self, until: Callable[[], bool], timeout: float | None) -> bool:
        """Waits until that holds; it is looked at whenever an attempt ends."""
        with self._changed:
            return self._changed.wait_for(until, timeout)

    def notify(self) -> None:
        """Wakes those who wait."""
        with self._changed:
            self._changed.notify_all()

    def sweep(self, now: float) -> None:
        """To be called often: ends attempts whose lease is over and of which no keeper says so. Two
        looks have to agree, close to one another, or else this process may only have stood
        still."""
        close, self._swept = now - self._swept < _STOOD_STILL, now
        is_silent = False
        for attempt in self.all():
            was, attempt.overdue = attempt.overdue, attempt.until + _SWEEP_GRACE < now
            if was and attempt.overdue and close:
                is_silent |= attempt.lose("it was not renewed in time")
        if is_silent:
            self._on_silence()
