"""The pure half of waiting for tasks to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from duite._requests import MOST_NAMES
from duite.errors import NotFound, Timeout
from duite.tasks import Task
from duite.watches import TaskEvent


class Waiting:
    """What is known of tasks that are waited for, by their full names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(dict.fromkeys(names))
        # As they ended, whatever happened to them since.
        self.ended: dict[str, Task] = {}

    def chunks(self) -> Iterator[Sequence[str]]:
        """The names in parts that one watch takes."""
        for first in range(0, len(self._names), MOST_NAMES):
            yield self._names[first : first + MOST_NAMES]

    def see(self, names: Sequence[str], event: TaskEvent) -> bool:
        """Takes an event of a watch of these names; whether all of them have ended. NotFound where
        one is gone and nobody saw how it ended."""
        for task in event.changes:
            self.take(task)
        return not self.missing(names, event.view)

    def take(self, task: Task) -> bool:
        """Takes a task as it was read; whether it has ended."""
        if task.is_terminal:
            self.ended[task.name] = task
        return task.is_terminal

    def missing(self, names: Sequence[str], view: Mapping[str, Task]) -> list[str]:
        """Those that have not ended yet."""
        missing = [name for name in names if name not in self.ended]
        for name in missing:
            if name not in view:
                raise NotFound(
                    f"cannot wait for task {name}: there is none, or it was deleted",
                    reason="TASK_NOT_FOUND",
                    code="NOT_FOUND",
                )
        return missing

    def late(self, timeout: float | None) -> Timeout:
        """The caller's time is up."""
        running = [name for name in self._names if name not in self.ended]
        told = ", ".join(running[:3]) + (", ..." if len(running) > 3 else "")
        return Timeout(
            f"{len(running)} of {len(self._names)} tasks have not ended within {timeout:g} s: "
            f"{told}",
            code="DEADLINE_EXCEEDED",
        )
