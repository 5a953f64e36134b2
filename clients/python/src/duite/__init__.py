"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

# First: it tells gRPC what it must know before it is loaded.
from duite import _fork  # noqa: F401, I001  # pyright: ignore[reportUnusedImport]
from duite import asynchronous
from duite._requests import ErrorGroup, ServerInfo
from duite._values import Blob
from duite.aio import AsyncClient, AsyncStateWatch, AsyncTaskHandle, AsyncTaskWatch
from duite.asynchronous import task
from duite.client import Client, StateWatch, TaskHandle, TaskWatch
from duite.current import CurrentTask, current_task
from duite.errors import DuiteError
from duite.failure import Cancelled, PermanentError, RetryLater, failure_of
from duite.logs import LogHandler
from duite.queue import Queue
from duite.state_queue import StateQueue
from duite.tasks import Attempt, NewTask, Position, Task, TaskStatus
from duite.track import track
from duite.watches import (
    Entry,
    LargeValue,
    RemovedTask,
    StateEvent,
    StateView,
    TaskEvent,
    TaskView,
)
from duite.worker import Worker

__all__ = [
    "AsyncClient",
    "AsyncStateWatch",
    "AsyncTaskHandle",
    "AsyncTaskWatch",
    "Attempt",
    "Blob",
    "Cancelled",
    "Client",
    "CurrentTask",
    "DuiteError",
    "Entry",
    "ErrorGroup",
    "LargeValue",
    "LogHandler",
    "NewTask",
    "PermanentError",
    "Position",
    "Queue",
    "RemovedTask",
    "RetryLater",
    "ServerInfo",
    "StateEvent",
    "StateQueue",
    "StateView",
    "StateWatch",
    "Task",
    "TaskEvent",
    "TaskHandle",
    "TaskStatus",
    "TaskView",
    "TaskWatch",
    "Worker",
    "asynchronous",
    "current_task",
    "failure_of",
    "task",
    "track",
]
__version__ = "0.1.0"
