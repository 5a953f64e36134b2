"""Last words: what is to be done when the process ends in order."""

from __future__ import annotations

import atexit
import multiprocessing
import multiprocessing.util
import os
from collections.abc import Callable

_hooked: dict[Callable[[], object], int] = {}


def before_exit(call: Callable[[], object], priority: int = 20) -> None:
    """Has `call` made once at the end of this process, before what was asked for earlier. To be
    called again in processes made by `fork`; more often than that does no harm. In processes of
    `multiprocessing` a higher `priority` comes first; the last flush of state has 10."""
    before = _hooked.get(call)
    if before == os.getpid():
        return
    _hooked[call] = os.getpid()
    if before is None:
        # A process made by `fork` has it from its parent.
        atexit.register(call)
    if multiprocessing.parent_process() is not None:
        # Those of `multiprocessing` end without the hooks of `atexit`.
        multiprocessing.util.Finalize(None, call, exitpriority=priority)
