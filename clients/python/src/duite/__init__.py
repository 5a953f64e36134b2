"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

# First: it tells gRPC what it must know before it is loaded.
from duite import _fork  # noqa: F401  # pyright: ignore[reportUnusedImport]
from duite._values import Blob
from duite.errors import DuiteError
from duite.queue import Queue
from duite.state_queue import StateQueue

__all__ = ["Blob", "DuiteError", "Queue", "StateQueue"]
__version__ = "0.1.0"
