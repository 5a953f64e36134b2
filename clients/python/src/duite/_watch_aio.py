"""Watches of the asynchronous client: `async for` that goes on for ever."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio

from duite import _telemetry
from duite._until import AsyncTaskEnd
from duite._watch_core import BrokenChain, Kind, Plan, Shown
from duite._watch_sync import tell
from duite.errors import Timeout, Unavailable, from_rpc
from duite.tasks import Position
from duite.v1 import watch_pb2

_EOF: Any = getattr(grpc.aio, "EOF")  # noqa: B009 - its type is nowhere to be found

E = TypeVar("E")
V = TypeVar("V")


class AsyncWatch(Generic[E, V], AsyncIterator[E]):
    """An asynchronous iterator of events that goes on for ever, through every reconnect, or until
    the end that was asked for. Between two events `view` equals the server's.

    One that is cancelled while it waits loses nothing: the next `await` goes on. Leave it with
    `async with`, `aclose`, or by closing the client. Raises what no reconnect can mend.
    """

    def __init__(
        self,
        address: str,
        channel: Callable[[], grpc.aio.Channel],
        kind: Kind[Any, Any],
        options: watch_pb2.WatchOptions,
        event: Callable[[Shown[Any, Any]], E],
        start: Position | None = None,
        *,
        until: Callable[[], AsyncTaskEnd] | None = None,
    ) -> None:
        self._call: Any = None
        self._until = until
        # Another watch tells the log of the same server.
        self.is_quiet = False
        self._task_end: AsyncTaskEnd | None = None
        self._reading: asyncio.Future[Any] | None = None
        self._heard = 0.0
        self._address, self._channel, self._event = address, channel, event
        self._plan: Plan[Any, Any] = Plan(kind, options, start)
        self._metadata = _telemetry.metadata()
        self._open_at = 0.0
        self._is_closed = False
        self._closed: asyncio.Event | None = None

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

    def __aiter__(self) -> AsyncWatch[E, V]:
        return self

    async def __anext__(self) -> E:
        event = await self.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def next(self, timeout: float | None = None) -> E | None:
        """The next event; None after `aclose`, and when the end that was asked for has come. Raises
        Timeout when none came within `timeout` seconds; the watch stays as it is."""
        doing = self._plan.kind.method.doing
        try:
            shown = await asyncio.wait_for(self._next(), timeout)
        except asyncio.TimeoutError as error:
            if isinstance(error, Timeout):
                raise
            raise Timeout(
                f"cannot {doing}: nothing new within {timeout:g} s", code="DEADLINE_EXCEEDED"
            ) from None
        return None if shown is None else self._event(shown)

    async def _next(self) -> Shown[Any, Any] | None:
        while not self._is_closed:
            try:
                shown = await self._step()
            except Exception:
                self.cancel()
                raise
            finally:
                notices = self._plan.take_notices()
                if not self.is_quiet:
                    tell(notices, self._plan.kind.method.doing, self._address)
            if shown is not None:
                return shown
        return None

    async def _step(self) -> Shown[Any, Any] | None:
        if self._until is not None and await self._is_over(self._until):
            self.cancel()
            return None
        if self._call is None:
            await self._open()
            return None
        # A task of its own: gRPC ends a call with the reading of it, and whoever waits here may be
        # cancelled and come again.
        reading = self._reading
        if reading is None:
            reading = self._reading = asyncio.ensure_future(self._call.read())
            self._heard = time.monotonic()
        silent_in = self._heard + self._plan.silence() - time.monotonic()
        news: list[asyncio.Future[Any]] = [reading]
        if self._task_end is not None and not self._task_end.done.done():
            news.append(self._task_end.done)
        done, _ = await asyncio.wait(
            news, timeout=max(silent_in, 0), return_when=asyncio.FIRST_COMPLETED
        )
        if self._is_closed:
            return None
        if done and reading not in done:
            # The task's end, which the next step looks at.
            return None
        if done:
            self._reading = None
            try:
                response = reading.result()
                if response is not _EOF:
                    return self._plan.on_frame(response)
                wait = self._plan.on_end(None)
            except BrokenChain as broken:
                wait = self._plan.on_broken(broken)
            except grpc.RpcError as error:
                wait = self._plan.on_end(from_rpc(error, self._plan.kind.method.doing))
            except asyncio.CancelledError:
                # Nothing is awaited here: it is the stream that was cancelled, with its connection.
                wait = self._plan.on_end(Unavailable("the connection was closed"))
        else:
            wait = self._plan.on_silence()
        if wait is None:
            self.cancel()
        else:
            self._cancel_call()
            self._open_at = time.monotonic() + wait
        return None

    async def _is_over(self, follow: Callable[[], AsyncTaskEnd]) -> bool:
        task_end = self._task_end
        if task_end is None:
            task_end = self._task_end = follow()
        if not task_end.known.done():
            # First, as a watch that begins after the task's end is opened once then.
            await asyncio.wait([task_end.known])
        end = task_end.end()
        if end is not None and self._plan.on_task_end(end) and self._call is not None:
            self._plan.on_drop()
            self._cancel_call()
        return self._plan.is_over or self._is_closed

    async def _open(self) -> None:
        wait = self._open_at - time.monotonic()
        if wait > 0:
            self._closed = asyncio.Event()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closed.wait(), wait)
            # Also where both have come at once.
            if self._is_closed:
                return
        call = self._plan.kind.method.stream_on(self._channel())
        # As in the synchronous one: a lost server is waited for on the connection.
        self._call = call(
            self._plan.request(), metadata=self._metadata, wait_for_ready=self._plan.is_lost
        )

    def _cancel_call(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.add_done_callback(_forget)

    def cancel(self) -> None:
        """Ends the watch and its iteration, at once."""
        self._is_closed = True
        self._cancel_call()
        if self._task_end is not None:
            self._task_end.cancel()
        if self._closed:
            self._closed.set()

    async def aclose(self) -> None:
        """Ends the watch and its iteration."""
        self.cancel()

    async def __aenter__(self) -> AsyncWatch[E, V]:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # One that was dropped ends its stream, if its loop is still there to do it.
        if getattr(self, "_call", None) or getattr(self, "_task_end", None):
            with contextlib.suppress(RuntimeError):
                self.cancel()


def _forget(reading: asyncio.Future[Any]) -> None:
    # How a stream ended that was given up is of no interest, and not an error nobody looked at.
    if not reading.cancelled():
        reading.exception()
