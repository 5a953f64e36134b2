"""A submitted task, for those who await."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from duite import _names
from duite.tasks import Position, Task

if TYPE_CHECKING:
    from duite.aio import AsyncClient, AsyncStateWatch

__all__ = ["AsyncTaskHandle"]


class AsyncTaskHandle:
    """A task by its name, as `submit` gives it."""

    def __init__(self, client: AsyncClient, name: str, state: str | None = None) -> None:
        self._client = client
        self.name = name
        self._state = state

    @property
    def id(self) -> str:
        """The last part of the name."""
        return _names.short_name(self.name)

    @property
    def state(self) -> str | None:
        """The id of the state that it reports to, as it was submitted with."""
        return self._state

    async def get(self) -> Task:
        """The task as it is now."""
        return await self._client.get(self.name)

    async def wait(self, timeout: float | None = None) -> Task:
        """Waits until it has ended, through every reconnect. Raises Timeout after `timeout` s."""
        return await self._client.wait(self.name, timeout)

    async def result(self, timeout: float | None = None) -> Any:
        """Waits until it has ended and gives its output. Raises TaskFailed, TaskCancelled,
        Timeout."""
        return (await self.wait(timeout)).result()

    async def cancel(self, reason: str = "") -> Task:
        """Asks it to stop; one that waits is cancelled at once."""
        return await self._client.cancel(self.name, reason)

    def watch(self) -> AsyncIterator[Task]:
        """The task each time it has changed, until it has ended. Large inputs and outputs are left
        out: `get` has them."""
        return self._client.watch_task(self.name)

    def watch_state(
        self,
        *,
        keys: str | Iterable[str] | None = None,
        prefixes: str | Iterable[str] | None = None,
        interval: float | None = None,
        inline_limit: int = 0,
        start: Position | None = None,
        updates_only: bool = False,
    ) -> AsyncStateWatch:
        """Follows the state that it reports to, else the one that is named after it, until it has
        ended; see the client's `watch_state`."""
        state = self._state or self.id
        return self._client.watch_state(
            _names.full_name(state, _names.namespace_of(self.name), "states"),
            keys=keys,
            prefixes=prefixes,
            interval=interval,
            inline_limit=inline_limit,
            start=start,
            updates_only=updates_only,
            until=self,
        )

    def __repr__(self) -> str:
        return f"<AsyncTaskHandle {self.name}>"
