"""Follows a task on the screen, until it has ended.

On a terminal, and where the package rich is installed (`pip install duite[rich]`), as a table that
stays in place; else as lines, each said once.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from duite import _names
from duite._show_view import Picture, news, picture
from duite.errors import NotFound
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
    """Shows a task (its name, or what `submit` gave) until it has ended: status, attempt, worker,
    time, progress (a key `progress` from 0 to 1), the keys of its state, the end of its log (a key
    `log`), and its failure.

    `file`: where to; else stdout. `plain`: lines even on a terminal. Ctrl-C ends the showing, not
    the task. NotFound where there is no such task.
    """
    out: Any = sys.stdout if file is None else file
    name: str = task if isinstance(task, str) else task.name
    is_terminal = hasattr(out, "isatty") and out.isatty()
    with _screen(out, is_terminal and not plain) as draw, _Following(client, name) as following:
        for shown in following.pictures():
            draw(shown)


class _Following:
    """A task and its state, each kept current by a watch on a thread of its own."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._changed = client, threading.Condition()
        self._task: task_service_pb2.Task = client.get(name).proto
        # A task that names no state writes to the one named after it.
        task = self._task.name
        own = f"namespaces/{_names.namespace_of(task)}/states/{_names.short_name(task)}"
        self._state_name = self._task.state_name or own
        self._values: Mapping[str, Any] = {}
        self._error: BaseException | None = None
        self._news = 0
        self._watches: list[Any] = [
            client.watch_tasks(names=[task]),
            client.watch_state(self._state_name, interval=_LEAST),
        ]

    def __enter__(self) -> _Following:
        for watch, take in zip(self._watches, (self._take_task, self._take_state), strict=True):
            thread = threading.Thread(
                target=self._follow, args=(watch, take), name="duite-show", daemon=True
            )
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for watch in self._watches:
            watch.close()

    def pictures(self) -> Iterator[Picture]:
        """The picture now, then whenever something has changed, and the last one."""
        seen = -1
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._news > seen, _REDRAW)  # noqa: B023
                seen, task, values = self._news, self._task, self._values
                if self._error is not None:
                    raise self._error
            shown = picture(task, values, time.time())
            if shown.terminal:
                break
            yield shown
            time.sleep(_LEAST)
        # What the task said last is there when it has ended, but the watch may not have told yet.
        task = self._client.get(task.name).proto
        with contextlib.suppress(NotFound):
            values = self._client.get_state(self._state_name)
        yield picture(task, values, time.time())

    def _follow(self, watch: Any, take: Callable[[Any], None]) -> None:
        try:
            for event in watch:
                with self._changed:
                    take(event)
                    self._news += 1
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - it is raised where the pictures are made
            with self._changed:
                self._error = error
                self._news += 1
                self._changed.notify_all()

    def _take_task(self, event: Any) -> None:
        for task in event.changes:
            self._task = task.proto
        if event.removed and not event.changes:
            raise NotFound(f"the task {self._task.name} was deleted", code="NOT_FOUND")

    def _take_state(self, event: Any) -> None:
        self._values = dict(event.view)


@contextlib.contextmanager
def _screen(out: Any, live: bool) -> Generator[Callable[[Picture], None], None, None]:
    if live:
        try:
            from duite._show_rich import screen
        except ImportError:
            pass
        else:
            with screen(out) as draw:
                yield draw
            return
    before: Picture | None = None

    def say(now: Picture) -> None:
        nonlocal before
        for line in news(before, now):
            out.write(line + "\n")
        out.flush()
        before = now

    yield say
