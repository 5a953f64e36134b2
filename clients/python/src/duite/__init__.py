"""duite: submit tasks, run them on remote workers, watch their progress and shared state live."""

from duite._values import Blob
from duite.errors import DuiteError
from duite.state_queue import StateQueue

__all__ = ["Blob", "DuiteError", "StateQueue"]
__version__ = "0.1.0"
