"""Watches of the synchronous client: iterators that go on for ever."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

from duite import _connection, _telemetry
from duite._streams import Ended, StreamReader
from duite._until import TaskEnd
from duite._watch_core import BrokenChain, Kind, Notice, Plan, Shown
from duite.errors import Timeout, from_rpc
from duite.tasks import Position
from duite.v1 import watch_pb2

log = logging.getLogger("duite")

E = TypeVar("E")
V = TypeVar("V")


class _Late(Exception):
    """The caller's time is up."""


def tell(notices: list[Notice], doing: str, address: str) -> None:
    """Logs what a watch has to say: one warning when it loses the server, one line when that is
    back."""
    for notice in notices:
        if notice.what == "lost":
            log.warning(
                "cannot %s: lost the server at %s, trying again until it is back: %s",
                doing, address, notice.why,
            )  # fmt: skip
        elif notice.what == "back":
            log.info("able to %s again: the server at %s is back", doing, address)
        else:
            log.warning(
                "cannot trust what was watched (%s): frames did not chain, starting over: %s",
                doing, notice.why,
            )  # fmt: skip


class Watch(Generic[E, V], Iterator[E]):
    """An iterator of events that goes on for ever, through every reconnect, or until the end that
    was asked for. Between two events `view` equals the server's.

    Iterate on one thread; `close` may be called from any, and ends the iteration. A watch that is
    dropped is closed. Raises what no reconnect can mend, such as a wrong name.
    """

    def __init__(
        self,
        address: str,
        kind: Kind[Any, Any],
        options: watch_pb2.WatchOptions,
        event: Callable[[Shown[Any, Any]], E],
        start: Position | None = None,
        *,
        until: Callable[[], TaskEnd] | None = None,
    ) -> None:
        self._reader: StreamReader | None = None
        self._until = until
        # Another watch tells the log of the same server.
        self.is_quiet = False
        self._task_end: TaskEnd | None = None
        self._closed = threading.Event()
        self._address, self._event = address, event
        self._plan: Plan[Any, Any] = Plan(kind, options, start)
        self._metadata = _telemetry.metadata()
        self._open_at = 0.0
        self._process = os.getpid()

    @property
    def view(self) -> V:
        """Everything watched, as it was at the last event."""
        return self._plan.fold.view

    @property
    def position(self) -> Position:
        """Where a later watch of the same things can go on."""
        fold = self._plan.fold
        return Position(fold.revision or 0, fold.token)

    @property
    def reconnects(self) -> int:
        """How often a stream had to be opened again."""
        return self._plan.reconnects

    def __iter__(self) -> Watch[E, V]:
        return self

    def __next__(self) -> E:
        event = self.next()
        if event is None:
            raise StopIteration
        return event

    def next(self, timeout: float | None = None) -> E | None:
        """The next event; None after `close`, and when the end that was asked for has come. Raises
        Timeout when none came within `timeout` seconds; the watch stays as it is."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        doing = self._plan.kind.method.doing
        while not self._closed.is_set():
            try:
                shown = self._step(until)
            except _Late:
                raise Timeout(
                    f"cannot {doing}: nothing new within {timeout:g} s", code="DEADLINE_EXCEEDED"
                ) from None
            except BaseException:
                self.close()
                raise
            finally:
                notices = self._plan.take_notices()
                if not self.is_quiet:
                    tell(notices, doing, self._address)
            if shown is not None:
                return self._event(shown)
        return None

    def _step(self, until: float) -> Shown[Any, Any] | None:
        if self._until is not None and self._is_over(self._until, until):
            self.close()
            return None
        reader = self._reader if self._process == os.getpid() else None
        if reader is None:
            self._open(until)
            return None
        silent_at = reader.heard + self._plan.silence()
        try:
            response = reader.get(min(until, silent_at))
            if response is not None:
                return self._plan.on_frame(response)
            # It may have been heard since, just in time.
            if time.monotonic() >= reader.heard + self._plan.silence():
                self._reopen_in(self._plan.on_silence())
            elif time.monotonic() >= until:
                raise _Late
        except BrokenChain as broken:
            self._reopen_in(self._plan.on_broken(broken))
        except Ended as ended:
            if self._closed.is_set():
                return None
            if reader.interrupted:
                self._plan.on_drop()
                self._reopen_in(0)
                return None
            error = from_rpc(ended.error, self._plan.kind.method.doing) if ended.error else None
            wait = self._plan.on_end(error)
            if wait is None:
                self.close()
            else:
                self._reopen_in(wait)
        return None

    def _is_over(self, follow: Callable[[], TaskEnd], until: float) -> bool:
        task_end = self._task_end
        if task_end is None or task_end.process != os.getpid():
            task_end = self._task_end = follow()
            task_end.start(_waker(self))
            if self._closed.is_set():
                # As with the reader below.
                task_end.close()
        # First, as a watch that begins after the task's end is opened once then.
        if not task_end.wait_known(_left(until)):
            raise _Late
        end = task_end.end()
        if end is not None and self._plan.on_task_end(end) and self._reader:
            self._plan.on_drop()
            self._reopen_in(0)
        return self._plan.is_over

    def _wake(self) -> None:
        reader = self._reader
        if reader and self._process == os.getpid():
            reader.interrupt()

    def _open(self, until: float) -> None:
        if self._process != os.getpid():
            # The parent's stream is the parent's, and its reader did not come along.
            self._process, self._reader = os.getpid(), None
            self._plan.on_drop()
        wait = self._open_at - time.monotonic()
        if wait > 0:
            if self._closed.wait(min(wait, max(until - time.monotonic(), 0))):
                return
            if time.monotonic() < self._open_at:
                raise _Late
        method = self._plan.kind.method
        request = self._plan.request()

        def start() -> Any:
            call = method.stream_on(_connection.channel(self._address, "watch"))
            # Once the server is known to be lost, the call waits for the connection: it is then
            # there as soon as the server is.
            return call(request, metadata=self._metadata, wait_for_ready=self._plan.is_lost)

        self._reader = StreamReader(start)
        if self._closed.is_set():
            # Closed on another thread, which could not see the reader yet.
            self._reader.close()

    def _reopen_in(self, wait: float) -> None:
        if self._reader:
            self._reader.close()
        self._reader = None
        self._open_at = time.monotonic() + wait

    def close(self) -> None:
        """Ends the watch and its iteration. From any thread, any number of times."""
        self._closed.set()
        reader = self._reader
        if reader and self._process == os.getpid():
            reader.close()
        if self._task_end is not None:
            self._task_end.close()

    def __enter__(self) -> Watch[E, V]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # One that failed in its beginning has nothing to close.
        if getattr(self, "_reader", None) or getattr(self, "_task_end", None):
            self.close()


def _waker(watch: Watch[Any, Any]) -> Callable[[], None]:
    # A thread that held the watch would keep one that was dropped.
    found = weakref.ref(watch)

    def wake() -> None:
        watch = found()
        if watch is not None:
            watch._wake()  # pyright: ignore[reportPrivateUsage]

    return wake


def _left(until: float) -> float | None:
    return None if until == math.inf else max(until - time.monotonic(), 0)
