"""The last log lines of a task, for all who watch it.

    logging.getLogger().addHandler(duite.LogHandler(level=logging.INFO))

keeps the last lines in the key `log` of the task's state, as a list of texts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from typing import Any

from duite._exits import before_exit
from duite._own_state import Sink, of_environment, of_task
from duite.failure import cut

__all__ = ["LogHandler"]

LINES = 100
"""Lines that are kept, unless told otherwise."""

BYTES = 16 << 10
"""All lines together, in UTF-8, unless told otherwise: each report carries all of them. A watch
passes on values up to 64 KiB whole."""

LINE_BYTES = 2 << 10
"""A longer line is cut."""

INTERVAL = 0.5
"""Least seconds between two reports, unless told otherwise."""

_AT_EXIT = 2.0  # a process that ends gives its last lines so long

_LOUD = "duite.asynchronous"
"""Of the package's own loggers the one that speaks of the program's failures."""

_handlers: weakref.WeakSet[LogHandler] = weakref.WeakSet()


def flush_handlers() -> None:
    """Has all log handlers report what is new."""
    for handler in list(_handlers):
        handler.flush()


def flush_to(sinks: Iterable[Any]) -> None:
    """Has all log handlers report what is new for these: to be called before a task ends."""
    for handler in list(_handlers):
        for sink in sinks:
            handler.flush_to(sink)


def _at_exit() -> None:
    flush_handlers()
    until = time.monotonic() + _AT_EXIT
    for handler in list(_handlers):
        handler.wait(until)


class LogHandler(logging.Handler):
    """A logging handler that shows a task's last log lines in a state.

    `state`: the state to report to, a `StateQueue` or a state's name. Without it, a handler made
    inside of a task reports to that task, and takes all records but those logged in other tasks;
    one made outside reports each record to the task that logs it, else to the state that the
    environment names, else nowhere.

    `key`: what the lines are called there. At most `lines` lines and `max_bytes` bytes are kept,
    the newest; they are reported together, at most once in `interval` seconds, and the last
    always. What the package itself logs is not taken, except failures of tasks. Never blocks.
    Processes that log to one state want keys of their own: the one that reported last is seen.
    """

    def __init__(
        self,
        state: Sink | str | None = None,
        *,
        level: int | str = logging.NOTSET,
        key: str = "log",
        lines: int = LINES,
        max_bytes: int = BYTES,
        interval: float = INTERVAL,
    ) -> None:
        super().__init__(level)
        if lines < 1 or max_bytes < 1 or interval < 0:
            raise ValueError(
                f"lines={lines}, max_bytes={max_bytes}, interval={interval}: a log tail needs at "
                "least one line, one byte, and no less than 0 s"
            )
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._key, self._lines, self._max_bytes, self._interval = key, lines, max_bytes, interval
        self._own: Any = None  # a StateQueue made here, which ends with the handler
        if isinstance(state, str):
            from duite.state_queue import StateQueue

            state = self._own = StateQueue(state)
        self._given = state
        self._made_in = of_task() if state is None else None
        # Guarded by the lock that every handler has. A task's tail goes with its state.
        self._tails: weakref.WeakKeyDictionary[Any, _Tail] = weakref.WeakKeyDictionary()
        self._clock: _Clock | None = None
        _handlers.add(self)

    def filter(self, record: logging.LogRecord) -> Any:
        """As set; what the package itself logs is left out, or else a report could cause the
        next."""
        if record.name.split(".", 1)[0] == "duite" and record.name != _LOUD:
            return False
        return super().filter(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a record's lines. Called by logging, with the handler's lock held."""
        try:
            sink = self._sink()
            if sink is None:
                return
            tail = self._tails.get(sink)
            if tail is None:
                tail = self._tails[sink] = _Tail(self._lines, self._max_bytes)
                before_exit(_at_exit)
            tail.add(self.format(record))
            self._wake()
        except Exception:  # noqa: BLE001 - logging's own rule for handlers
            self.handleError(record)

    def flush(self) -> None:
        """Reports what is new, without regard to the interval."""
        with self._locked():
            for sink in list(self._tails):
                self.flush_to(sink)

    def flush_to(self, sink: Any) -> None:
        """Reports what is new for one of the states."""
        with self._locked():
            tail = self._tails.get(sink)
            if tail is not None and tail.changed:
                tail.changed = False
                # The attempt may be over, or the state too full: no reason to fail who logs.
                with contextlib.suppress(Exception):
                    sink.update({self._key: list(tail.lines)})

    def wait(self, until: float) -> None:
        """Waits until what was reported has arrived, by the monotonic clock at most so long."""
        from duite.state_queue import StateQueue

        with self._locked():
            sinks: list[Any] = list(self._tails)
        for sink in sinks:
            if isinstance(sink, StateQueue):
                sink.flush_wait(max(until - time.monotonic(), 0))

    def close(self) -> None:
        """Reports what is new, and ends."""
        self.flush()
        with self._locked():
            clock, self._clock = self._clock, None
            own, self._own = self._own, None
        if clock:
            clock.stop()
        if own is not None:
            own.exit()
        super().close()

    def _sink(self) -> Any:
        if self._given is not None:
            return self._given
        current = of_task()
        if self._made_in is not None:
            return self._made_in if current is None or current is self._made_in else None
        return current if current is not None else of_environment()

    def _wake(self) -> None:
        clock = self._clock
        if clock is None or not clock.usable():
            clock = self._clock = _Clock(self, self._interval)
        clock.wake()

    @contextlib.contextmanager
    def _locked(self) -> Generator[None, None, None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


class _Tail:
    """The last lines, within bounds."""

    def __init__(self, lines: int, max_bytes: int) -> None:
        self._max_lines, self._max_bytes, self._bytes = lines, max_bytes, 0
        self.lines: deque[str] = deque()
        self.changed = False

    def add(self, text: str) -> None:
        for line in text.split("\n"):
            kept = cut(line, min(LINE_BYTES, self._max_bytes))
            self.lines.append(kept)
            self._bytes += len(kept.encode())
            while len(self.lines) > self._max_lines or self._bytes > self._max_bytes:
                self._bytes -= len(self.lines.popleft().encode())
        self.changed = True


class _Clock:
    """A daemon thread that has a handler report soon after it was woken, and not too often."""

    def __init__(self, handler: LogHandler, interval: float) -> None:
        self._handler = weakref.ref(handler, lambda _: self.stop())
        self._interval, self._process = interval, os.getpid()
        self._woken, self._stopped = threading.Event(), threading.Event()
        threading.Thread(target=self._run, name="duite-log", daemon=True).start()

    def usable(self) -> bool:
        """False in a process made by `fork`, where the thread is not."""
        return self._process == os.getpid()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopped.set()
        self._woken.set()

    def _run(self) -> None:
        while self._woken.wait() and not self._stopped.is_set():
            self._woken.clear()
            handler = self._handler()
            if handler is not None:
                handler.flush()
            del handler  # or else it would live as long as this thread
            self._stopped.wait(self._interval)
