"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

from duite._values import Blob
from duite.current import CurrentTask, current_task
from duite.errors import DuiteError
from duite.failure import Cancelled, PermanentError, RetryLater, failure_of
from duite.worker import Worker

__all__ = [
    "Blob",
    "Cancelled",
    "CurrentTask",
    "DuiteError",
    "PermanentError",
    "RetryLater",
    "Worker",
    "current_task",
    "failure_of",
]
__version__ = "0.1.0"
