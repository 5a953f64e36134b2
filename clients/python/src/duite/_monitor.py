"""Merges what arrives in a queue into the state of a trame server.

How an arrival is noticed: a `duite.Queue` says so itself. All other queues are polled, after a
hundredth of the present silence, but at least 10 ms and at most 50 ms: the ones of
`multiprocessing` and `queue` can only be waited for by taking from them, which needs a thread,
and an item taken by a thread whose monitor was just cancelled would be lost. The cost of polling,
measured with CPython 3.11, is half a percent of a core in a long silence (0.7 % for a queue of a
manager, whose every look is a call to another process), and up to 1 % (2 %) before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue as queues
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

QUEUE_EXIT = "STOP"
"""What a `StateQueue` puts into its queue when its work is done."""

_POLL = 0.01
_SLOW_POLL = 0.05
_LEAST_POLL = 0.001
# A look after so long even where nothing was heard of an arrival.
_FALLBACK = 1.0
# Without pause items are merged for so long; then the loop's other tasks have their turn.
_SLICE = 0.01

_log = logging.getLogger("duite.asynchronous")


@runtime_checkable
class Readable(Protocol):
    """A queue as the monitor reads it: `multiprocessing`'s, a manager's, `queue`'s or duite's."""

    def empty(self) -> bool:
        """Whether nothing waits."""
        ...

    def get_nowait(self) -> Any:
        """What waits longest; raises where nothing waits."""
        ...


Monitored = Readable | str


async def follow(
    server: Any,
    queue: Monitored,
    delay: float,
    *,
    fold: bool,
    until: str | None,
    addr: str | None = None,
    namespace: str | None = None,
) -> None:
    """Merges until the exit mark comes, or the task `until` has ended."""
    if isinstance(queue, str):
        from duite import _mirror

        client = _mirror.AsyncClient(addr, namespace)
        await _mirror.follow_state(client, server, queue, delay, until=until)
    else:
        await follow_queue(server, queue, delay, fold=fold)


async def follow_queue(server: Any, queue: Readable, delay: float, *, fold: bool) -> None:
    """Merges until the exit mark comes."""
    async with _arrivals(queue, delay) as arrival:
        while True:
            silent_since = time.monotonic()
            while queue.empty():
                await arrival(time.monotonic() - silent_since)
            if await _merge_all(server.state, queue, fold):
                return
            await asyncio.sleep(delay)


async def _merge_all(state: Any, queue: Readable, fold: bool) -> bool:
    """Merges what waits. True: the exit mark was among it."""
    folded: dict[str, Any] = {}
    ended = False
    pause_at = time.monotonic() + _SLICE
    while not (ended or queue.empty()):
        try:
            item = queue.get_nowait()
        except (queues.Empty, asyncio.QueueEmpty):
            break  # somebody else has taken it
        if isinstance(item, str):
            ended = item == QUEUE_EXIT
        elif fold:
            guarded(folded.update, item)
        else:
            guarded(merge, state, item)
        if time.monotonic() > pause_at:
            if folded:
                guarded(merge, state, folded)
                folded = {}
            await asyncio.sleep(0)
            pause_at = time.monotonic() + _SLICE
    if folded:
        guarded(merge, state, folded)
    return ended


def merge(state: Any, changes: dict[str, Any]) -> None:
    """Merges changes of one moment: listeners are called, and browsers told, when all are made."""
    with state:
        state.update(changes)


def guarded(call: Callable[..., Any], *given: Any) -> None:
    # One bad item is no reason to be silent about all that follow.
    try:
        call(*given)
    except Exception:  # noqa: BLE001 - it is logged
        _log.exception("an item of a state queue could not be merged")


@contextlib.asynccontextmanager
async def _arrivals(
    queue: Readable, delay: float
) -> AsyncGenerator[Callable[[float], Awaitable[object]], None]:
    """Gives what to await until an item may have arrived; it is told how long the silence is."""
    listen: Any = getattr(queue, "_on_arrival", None)
    if listen is None:
        least = max(min(_POLL, delay), _LEAST_POLL)
        yield lambda silence: asyncio.sleep(min(max(silence / 100, least), _SLOW_POLL))
        return
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        # From a thread of the queue's, which may be there still when the loop is closed.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(arrived.set)

    async def wait(_silence: float) -> None:
        arrived.clear()
        if queue.empty():  # else it came before the event was cleared
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(arrived.wait(), _FALLBACK)

    # Its first look waits for the server, which is not for the loop to do.
    await asyncio.to_thread(queue.empty)
    forget: Any = listen(tell)
    try:
        yield wait
    finally:
        forget()
