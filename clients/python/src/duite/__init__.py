"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

from duite._requests import ErrorGroup, ServerInfo
from duite._values import Blob
from duite.aio import AsyncClient, AsyncTaskHandle
from duite.client import Client, TaskHandle
from duite.errors import DuiteError
from duite.tasks import Attempt, NewTask, Position, Task, TaskStatus
from duite.watches import (
    Entry,
    LargeValue,
    RemovedTask,
    StateEvent,
    StateView,
    TaskEvent,
    TaskView,
)

__all__ = [
    "AsyncClient",
    "AsyncTaskHandle",
    "Attempt",
    "Blob",
    "Client",
    "DuiteError",
    "Entry",
    "ErrorGroup",
    "LargeValue",
    "NewTask",
    "Position",
    "RemovedTask",
    "ServerInfo",
    "StateEvent",
    "StateView",
    "Task",
    "TaskEvent",
    "TaskHandle",
    "TaskStatus",
    "TaskView",
]
__version__ = "0.1.0"
