"""Where handlers run inside this process: threads, and an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

log = logging.getLogger("duite")

Result = TypeVar("Result")


class ThreadPool:
    """Threads that are started as they are needed and then kept. They do not keep the interpreter
    from ending: a handler that never returns must not."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = 0
        self._idle = 0

    def submit(self, job: Callable[[], object]) -> None:
        """Runs it as soon as a thread is free; there is always one, soon."""
        with self._lock:
            if self._idle:
                self._idle -= 1
            else:
                threading.Thread(
                    target=self._run, name=f"{self._name}-{self._threads + 1}", daemon=True
                ).start()
                self._threads += 1
        self._jobs.put(job)

    def stop(self) -> None:
        """Ends the threads, each after what it runs."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                # What a job leaves in context variables is not for the next.
                contextvars.copy_context().run(job)
            except BaseException:  # the thread is needed on
                log.exception("a thread of handlers failed")
            del job
            with self._lock:
                self._idle += 1


class Loop:
    """An event loop on a thread of its own, or the one that the caller runs."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._own: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        # Nobody cancels this one but who cancels all, as `asyncio.run` does at its end.
        self._last: asyncio.Task[Any] | None = None

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Uses that one, which runs here."""
        self._loop = loop
        self._last = loop.create_task(_wait_for_ever(), name="duite-worker")

    def is_ending(self) -> bool:
        """Whether an adopted loop has cancelled all that it runs."""
        return self._last is not None and self._last.cancelled()

    def start(self) -> None:
        """Starts one, where none was adopted."""
        if self._loop is not None:
            return
        loop = self._loop = asyncio.new_event_loop()
        self._own = threading.Thread(target=loop.run_forever, name="duite-asyncio", daemon=True)
        self._own.start()

    def submit(
        self,
        run: Callable[[], Coroutine[Any, Any, Result]],
        listen: Callable[[Callable[[], None]], object],
        ended: Callable[[Callable[[], Result]], object],
    ) -> None:
        """Runs a coroutine on it. `listen` is given what cancels it, safe to call from every
        thread; `ended` is given what returns its result, or raises."""
        assert self._loop is not None
        loop = self._loop

        def start() -> None:
            # Not in the context of whoever submits.
            task = contextvars.Context().run(loop.create_task, run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: ended(task.result))
            listen(lambda: _soon(loop, task.cancel))

        _soon(loop, start)

    def stop(self) -> None:
        """Ends it, if it was started here."""
        loop, own = self._loop, self._own
        self._loop = self._own = None
        if loop is not None and self._last is not None:
            _soon(loop, self._last.cancel)
        if loop is not None and own is not None:
            _soon(loop, loop.stop)
            own.join(5)
            if not own.is_alive():
                loop.close()


async def _wait_for_ever() -> None:
    await asyncio.get_running_loop().create_future()


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        log.debug("the event loop is closed")
