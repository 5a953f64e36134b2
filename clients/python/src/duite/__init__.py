"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

# First: it tells gRPC what it must know before it is loaded.
from duite import _fork  # noqa: F401, I001
from duite import asynchronous
from duite._values import Blob
from duite.asynchronous import task
from duite.current import CurrentTask, current_task
from duite.errors import DuiteError
from duite.failure import Cancelled, PermanentError, RetryLater, failure_of
from duite.logs import LogHandler
from duite.queue import Queue
from duite.state_queue import StateQueue
from duite.track import track
from duite.worker import Worker

__all__ = [
    "Blob",
    "Cancelled",
    "CurrentTask",
    "DuiteError",
    "LogHandler",
    "PermanentError",
    "Queue",
    "RetryLater",
    "StateQueue",
    "Worker",
    "asynchronous",
    "current_task",
    "failure_of",
    "task",
    "track",
]
__version__ = "0.1.0"
