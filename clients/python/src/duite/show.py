"""Follows a task on the screen, until it has ended.

On a terminal, and where the package rich is installed (`pip install duite[rich]`), as a table that
stays in place; else as lines, each said once.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from duite._show_view import LOG_LINES, Picture, news, picture
from duite.v1 import task_service_pb2

if TYPE_CHECKING:
    from duite.client import Client

__all__ = ["show"]

_REDRAW = 0.5
"""Seconds between two pictures where nothing new is heard: the time elapsed goes on."""
_LEAST = 0.1
"""Least seconds between two pictures."""


def show(
    client: Client, task: Any, *, file: TextIO | None = None, plain: bool | None = None
) -> None:
    """Shows a task (its name, or what `submit` gave) until it has ended: status, attempt, worker, time,
    progress (a key `progress` from 0 to 1), the keys of its state, the end of its log (a key `log`),
    and its failure.

    `file`: where to; else stdout. `plain`: lines even on a terminal. Ctrl-C ends the showing, not the
    task. NotFound where there is no such task.
    """
    out: Any = sys.stdout if file is None else file
    name = task if isinstance(task, str) else task.name
    if plain is None:
        plain = not (hasattr(out, "isatty") and out.isatty())
    with _screen(out, plain) as draw:
        for shown in _pictures(client, name):
            draw(shown)
