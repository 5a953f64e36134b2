"""The state that code reports to when nobody named one: that of the task it runs in.

Inside of a handler it is the task's. In a program that a worker runs it is the one that the
environment names; that `StateQueue` is the process's, shared by all who report, as each is a
writer of its own to the server.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Protocol

from duite.errors import DuiteError


class Sink(Protocol):
    """As much of a `StateQueue` as is needed to report."""

    def update(self, changes: dict[str, Any], /) -> object:
        """Sets keys."""
        ...


_lock = threading.Lock()
_of_environment: Sink | None = None


def own_state() -> Sink | None:
    """Where to report to; None: nowhere."""
    return of_task() or of_environment()


def of_task() -> Sink | None:
    """The state of the task whose handler calls."""
    from duite.current import current_task

    try:
        task = current_task()
        return task.state if task is not None else None
    except DuiteError:
        # The attempt is over, or what the environment says is no lease.
        return None


def of_environment() -> Sink | None:
    """The state that `DUITE_STATE` or `DUITE_TASK` names."""
    global _of_environment
    if not (os.environ.get("DUITE_STATE") or os.environ.get("DUITE_TASK")):
        return None
    from duite.state_queue import StateQueue

    with _lock:
        if _of_environment is None:
            _of_environment = StateQueue()
        return _of_environment


def _forget() -> None:
    # A StateQueue that a fork brought along is a writer of its own; only the lock must be new.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
