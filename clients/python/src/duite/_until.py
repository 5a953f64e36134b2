"""The end of a watch that follows a state until a task has ended.

A watch of the task alone says when that was. The watch of the state is then opened again where it
is not as fresh yet: what it is told first is at least as fresh as the task's end, so that nothing
that the task wrote is missing.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterable, Callable, Iterable
from typing import Protocol

from duite import _names
from duite.errors import InvalidArgument, NotFound
from duite.tasks import Position
from duite.watches import TaskEvent


def check_namespaces(state: str, task: str) -> None:
    """Revisions compare within one namespace only. Takes full names."""
    if _names.namespace_of(state) != _names.namespace_of(task):
        raise InvalidArgument(
            f"cannot watch {state} until {task} has ended: they are of two namespaces",
            reason="FIELD_INVALID",
            code="INVALID_ARGUMENT",
        )


class Ending:
    """The pure half: what is known of the task, by its full name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._uid = ""

    def see(self, event: TaskEvent) -> Position | None:
        """Takes an event of the watch of that task; where it has ended, its end. Raises NotFound
        where there never was one."""
        task = event.view.get(self._name)
        if task is None and not self._uid:
            raise NotFound(
                f"cannot watch until task {self._name} has ended: there is none, or it was deleted",
                reason="TASK_NOT_FOUND",
                code="NOT_FOUND",
            )
        if task is None or task.uid != (self._uid or task.uid):
            # Only a task that has ended is deleted, or has its name given to another.
            return event.position
        self._uid = task.uid
        return Position(task.revision, event.position.token) if task.is_terminal else None


class EventSource(Iterable[TaskEvent], Protocol):
    """The watch of the task."""

    is_quiet: bool

    def close(self) -> None:
        """Ends it, from any thread."""


class AsyncEventSource(AsyncIterable[TaskEvent], Protocol):
    """The watch of the task in an event loop."""

    is_quiet: bool

    def cancel(self) -> None:
        """Ends it."""


class TaskEnd:
    """Follows the task on a thread, and calls `wake` when there is an end to tell."""

    def __init__(self, name: str, watch: EventSource) -> None:
        self._ending, self._watch = Ending(name), watch
        self._known = threading.Event()
        self._end: Position | None = None
        self._error: Exception | None = None
        self.process = os.getpid()

    def start(self, wake: Callable[[], object]) -> None:
        """Begins."""
        run = threading.Thread(target=self._run, args=[wake], name="duite-until", daemon=True)
        run.start()

    def _run(self, wake: Callable[[], object]) -> None:
        try:
            for event in self._watch:
                self._end = self._ending.see(event)
                self._known.set()
                # From now on the watch of the state says when the server is away.
                self._watch.is_quiet = True
                if self._end is not None:
                    return
        except Exception as error:  # noqa: BLE001 - it is raised where the state is watched
            self._error = error
        finally:
            self._watch.close()
            self._known.set()
            wake()

    def wait_known(self, timeout: float | None) -> bool:
        """Waits until it is known whether the task has ended."""
        return self._known.wait(timeout)

    def end(self) -> Position | None:
        """Where the task has ended; None: not yet. Raises what the watch of it did."""
        if self._error is not None:
            raise self._error
        return self._end

    def close(self) -> None:
        """Follows it no more."""
        self._watch.close()


class AsyncTaskEnd:
    """The same on the event loop that runs."""

    def __init__(self, name: str, watch: AsyncEventSource) -> None:
        self._ending, self._watch = Ending(name), watch
        self._end: Position | None = None
        self._error: Exception | None = None
        # Done once it is known whether the task has ended; and once it has.
        self.known: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.done: asyncio.Future[None] = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            async for event in self._watch:
                self._end = self._ending.see(event)
                self._set_known()
                self._watch.is_quiet = True
                if self._end is not None:
                    return
        except Exception as error:  # noqa: BLE001 - it is raised where the state is watched
            self._error = error
        finally:
            self._watch.cancel()
            self._set_known()

    def _set_known(self) -> None:
        if not self.known.done():
            self.known.set_result(None)

    def end(self) -> Position | None:
        """Where the task has ended; None: not yet. Raises what the watch of it did."""
        if self._error is not None:
            raise self._error
        return self._end

    def cancel(self) -> None:
        """Follows it no more."""
        self.done.cancel()
        self._watch.cancel()
