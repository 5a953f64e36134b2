"""Independent tasks whose errors are caught, and a server's state that follows a worker.

The names and the behaviour of trame's module `trame.app.asynchronous`, so that an app changes one
import line:

    from duite import asynchronous          # was: from trame.app import asynchronous
 What is different: an error is also reported to the error groups of a duite server where one is
configured (see `duite.reports`); `task` returns the task that it has scheduled; a `StateQueue`
may stand in another machine; and the monitor merges what arrives at once (see
`create_state_queue_monitor_task`).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import logging
import os
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from duite import reports
from duite._monitor import QUEUE_EXIT, Monitored, follow
from duite.state_queue import StateQueue

__all__ = [
    "QUEUE_EXIT",
    "StateQueue",
    "create_state_queue_monitor_task",
    "create_task",
    "decorate_task",
    "get_event_loop",
    "get_number_of_pending_tasks",
    "handle_task_result",
    "task",
]

_T = TypeVar("_T")
_P = ParamSpec("_P")
_F = TypeVar("_F", bound="asyncio.Future[Any]")

_log = logging.getLogger("duite.asynchronous")

# Holds them: asyncio itself refers to its tasks weakly, and one that nobody holds may vanish.
_pending: set[asyncio.Future[Any]] = set()


def create_task(
    coroutine: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop | None = None
) -> asyncio.Task[_T]:
    """Runs a coroutine as an independent task whose error is caught, logged and reported.

    `loop`: where it is scheduled; without one, on the loop of `get_event_loop`.
    """
    return decorate_task((loop or get_event_loop()).create_task(coroutine))


def decorate_task(task: _F) -> _F:
    """Has a task's error caught: when it is done it goes to `handle_task_result`. Gives the same
    task.

    Takes tasks and all other futures, such as those of `loop.run_in_executor`.
    """
    _pending.add(task)
    task.add_done_callback(handle_task_result)
    task.add_done_callback(_pending.discard)
    return task


def task(func: Callable[_P, Coroutine[Any, Any, _T]]) -> Callable[_P, asyncio.Task[_T]]:
    """Decorates an `async def` function so that a call runs it as a task. The call gives the
    task."""

    @functools.wraps(func)
    def schedule(*args: _P.args, **kwargs: _P.kwargs) -> asyncio.Task[_T]:
        return create_task(func(*args, **kwargs))

    return schedule


def handle_task_result(task: asyncio.Future[Any]) -> None:
    """What is done with a task that is done: its error is logged, with its stack, and reported
    where a server is configured. A cancelled task is none."""
    try:
        task.result()
    except (asyncio.CancelledError, concurrent.futures.CancelledError):
        pass
    except Exception as error:  # noqa: BLE001 - the place where all of them are caught
        _log.error("Exception raised by task %r", task, exc_info=error)
        reports.report_failure(_name_of(task), error)


def get_number_of_pending_tasks() -> int:
    """How many tasks made by `create_task` or given to `decorate_task` are not done."""
    # Those of a loop that was closed before they were done never will be.
    return sum(not pending.done() for pending in _pending.copy())


def get_event_loop() -> asyncio.AbstractEventLoop:
    """The loop that runs, else the thread's own, which is made where there is none yet: tasks can
    be created before the loop is started."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    with warnings.catch_warnings():
        # Some versions of Python warn that others will raise.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            return loop


def create_state_queue_monitor_task(
    server: Any,
    queue: Monitored,
    delay: float = 1,
    *,
    fold: bool = False,
    until: str | None = None,
    addr: str | None = None,
    namespace: str | None = None,
) -> asyncio.Task[None]:
    """Keeps the state of a trame server up to date with what a worker tells; gives the task that
    does.

    `server` is trame's, or anything with a `state` that has `update(dict)` and can be entered by
    `with`. `queue` is what the worker's `StateQueue` puts into: a `duite.Queue` (another
    machine), a queue of `multiprocessing` or of one of its managers (another process), or a
    `queue.Queue` (a thread). It ends when the worker's `exit()` arrives, or when it is cancelled.

    What arrives after a silence is merged at once; what follows is merged `delay` seconds later,
    all that waits by then together. (trame's own looks once in `delay` seconds.) Each item is
    still merged by itself, in order, as trame does, so that listeners see each value; with `fold`
    all items that wait are merged as one, and a key's last value counts. A flood of items does
    not keep the loop from other work for more than about 10 ms.

    In place of a queue, `queue` may be the name of a state on a duite server, which is then
    mirrored: all its keys first, then what changes, at most once in `delay` seconds; what the
    server has folded comes as one. A deleted key becomes None. It ends when it is cancelled, or
    when the task named by `until` has ended and its last values are merged. `addr` and `namespace`
    are for it what they are for a `duite.Client`, and of no meaning with a queue.
    """
    return create_task(
        follow(server, queue, delay, fold=fold, until=until, addr=addr, namespace=namespace)
    )


def _name_of(task: asyncio.Future[Any]) -> str:
    """Its name where it was given one, else that of its function: a report's task type."""
    if not isinstance(task, asyncio.Task):
        return "future"
    name = task.get_name()
    made_up = name.startswith("Task-") and name[5:].isdecimal()
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", name) if made_up else name


_of_parent: list[object] = []


def _forget() -> None:
    # They run in the parent alone. Kept, as the garbage collector complains of tasks not done.
    _of_parent.extend(_pending)
    _pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
