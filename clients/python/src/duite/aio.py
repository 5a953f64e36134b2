"""The asynchronous client: the same names as the synchronous one, awaitable."""

from __future__ import annotations

import asyncio
import builtins
import datetime
import math
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import grpc.aio

from duite import _connection, _names, _requests
from duite._aio_handle import AsyncTaskHandle
from duite._backoff import Backoff
from duite._call import A, Method, Q, unary_async
from duite._requests import ErrorGroup, ServerInfo, TaskFilter, position_token
from duite._until import AsyncTaskEnd, check_namespaces
from duite._waiting import Waiting
from duite._watch_aio import AsyncWatch
from duite.errors import DuiteError, NotFound, Timeout, Unavailable
from duite.tasks import NewTask, Position, Seconds, Statuses, Task
from duite.v1 import state_service_pb2 as states
from duite.v1 import task_service_pb2 as tasks
from duite.watches import (
    StateEvent,
    StateKind,
    StateView,
    TaskEvent,
    TaskKind,
    TaskView,
    read_state,
    state_event,
    task_event,
)

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncClient", "AsyncStateWatch", "AsyncTaskHandle", "AsyncTaskWatch"]

AsyncStateWatch = AsyncWatch[StateEvent, StateView]
AsyncTaskWatch = AsyncWatch[TaskEvent, TaskView]


class AsyncClient:
    """A client of one namespace for asyncio, to be used in one event loop at a time; `Client` says
    what the parts mean. Make one, and close it in the loop that used it, best by `async with`.

    `addr` is `http://host:port` or `host:port`; without it `$DUITE_ADDR`, else
    `http://127.0.0.1:7643`. `timeout` is how long each call may take, in seconds, with all its
    attempts. Nothing is connected before the first call.
    """

    def __init__(
        self, addr: str | None = None, namespace: str | None = None, *, timeout: float = 10.0
    ) -> None:
        self.address: str = _connection.address_from(addr)
        _connection.target_of(self.address)
        self.namespace: str = _names.default_namespace(namespace)
        self.timeout = timeout
        self._watches: weakref.WeakSet[AsyncWatch[Any, Any]] = weakref.WeakSet()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: dict[_connection.Purpose, grpc.aio.Channel] = {}

    async def submit(
        self,
        type: str,
        input: Any = None,
        *,
        queue: str = "",
        state: str | None = None,
        task_id: str = "",
        request_id: str = "",
        labels: Mapping[str, str] | None = None,
        priority: int = 0,
        delay: Seconds | None = None,
        schedule_time: datetime.datetime | None = None,
        fairness_key: str = "",
        concurrency_key: str = "",
        max_attempts: int = 0,
        attempt_timeout: Seconds | None = None,
        total_timeout: Seconds | None = None,
        lease_duration: Seconds | None = None,
        retry_initial_delay: Seconds | None = None,
        retry_max_delay: Seconds | None = None,
        retention: Seconds | None = None,
        cancel_grace: Seconds | None = None,
    ) -> AsyncTaskHandle:
        """Submits a task; it is durable when this returns. What is left out has the server's
        default; `NewTask` says what each means."""
        return await self._submit(
            NewTask(
                type,
                input,
                queue=queue,
                state=state,
                task_id=task_id,
                request_id=request_id,
                labels=labels,
                priority=priority,
                delay=delay,
                schedule_time=schedule_time,
                fairness_key=fairness_key,
                concurrency_key=concurrency_key,
                max_attempts=max_attempts,
                attempt_timeout=attempt_timeout,
                total_timeout=total_timeout,
                lease_duration=lease_duration,
                retry_initial_delay=retry_initial_delay,
                retry_max_delay=retry_max_delay,
                retention=retention,
                cancel_grace=cancel_grace,
            )
        )

    async def _submit(self, new: NewTask) -> AsyncTaskHandle:
        request = _requests.new_task(new, self.namespace)
        return self._handle(Task((await self._call(_requests.CREATE_TASK, request)).task))

    @overload
    async def submit_many(
        self, tasks: Iterable[NewTask], *, return_exceptions: Literal[False] = False
    ) -> builtins.list[AsyncTaskHandle]: ...

    @overload
    async def submit_many(
        self, tasks: Iterable[NewTask], *, return_exceptions: Literal[True]
    ) -> builtins.list[AsyncTaskHandle | DuiteError]: ...

    async def submit_many(
        self, tasks: Iterable[NewTask], *, return_exceptions: bool = False
    ) -> builtins.list[AsyncTaskHandle] | builtins.list[AsyncTaskHandle | DuiteError]:
        """Submits tasks, up to 1000 or 3 MiB in each call; the handles are in order. Each stands or
        falls by itself: the first error is raised once all were tried, or stands in its task's
        place with `return_exceptions`. Submitting the same `NewTask`s again makes no second
        ones."""
        results: builtins.list[Any] = []
        requests = (_requests.new_task(new, self.namespace) for new in tasks)
        for batch in _requests.batches(requests):
            answer = await self._call(
                _requests.BATCH_CREATE_TASKS, _requests.batch(batch, self.namespace)
            )
            results.extend(_requests.created(result, "submit a task") for result in answer.results)
        return self._handles(results, return_exceptions)

    async def get(self, task: str, *, min_position: Position | None = None) -> Task:
        """The task as it is now; with `min_position` at least as fresh as that. Raises NotFound."""
        return await self._get(self._task_name(task), self.timeout, min_position)

    async def _get(self, name: str, timeout: float, min_position: Position | None = None) -> Task:
        request = tasks.GetTaskRequest(name=name, min_position=position_token(min_position))
        return Task((await self._call(_requests.GET_TASK, request, timeout)).task)

    def list(
        self,
        *,
        names: Iterable[str] | None = None,
        status: Statuses | None = None,
        queues: str | Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        trace_id: str = "",
    ) -> AsyncIterator[Task]:
        """The tasks that match all of that, the newest first, read page after page as they are
        asked for. `status` is a TaskStatus, or its name, or several. Large inputs and outputs are
        left out: `get` has them."""
        found = _requests.task_filter(self.namespace, names, status, queues, labels, trace_id)
        return self._list(found)

    async def _list(self, found: TaskFilter) -> AsyncIterator[Task]:
        request = _requests.list_tasks(self.namespace, found)
        while True:
            answer = await self._call(_requests.LIST_TASKS, request)
            for task in answer.tasks:
                yield Task(task)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def cancel(self, task: str, reason: str = "") -> Task:
        """Asks a task to stop; one that waits is cancelled at once. Raises NotFound, and
        FailedPrecondition where it has ended otherwise."""
        request = _requests.cancel_task(self._task_name(task), reason)
        return Task((await self._call(_requests.CANCEL_TASK, request)).task)

    @overload
    async def retry(self, task: str, *, request_id: str = "") -> AsyncTaskHandle: ...

    @overload
    async def retry(
        self,
        *,
        names: Iterable[str] | None = None,
        status: Statuses | None = None,
        queues: str | Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        trace_id: str = "",
        request_id: str = "",
    ) -> builtins.list[AsyncTaskHandle]: ...

    async def retry(
        self,
        task: str | None = None,
        *,
        names: Iterable[str] | None = None,
        status: Statuses | None = None,
        queues: str | Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        trace_id: str = "",
        request_id: str = "",
    ) -> AsyncTaskHandle | builtins.list[AsyncTaskHandle]:
        """Makes a new task of a failed or cancelled one, or of each that matches the filter and was
        not repeated already. A call again with the same `request_id`, a UUID, gives the tasks that
        the first one made. Raises the first error once all were tried."""
        wanted = [task] if task is not None else names
        found = _requests.task_filter(self.namespace, wanted, status, queues, labels, trace_id)
        request = _requests.retry_tasks(self.namespace, found, request_id)
        results: builtins.list[Any] = []
        while True:
            answer = await self._call(_requests.RETRY_TASKS, request)
            results.extend(_requests.created(result, "retry a task") for result in answer.results)
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        handles = self._handles(results, return_exceptions=False)
        return handles if task is None else handles[0]

    @overload
    async def wait(self, tasks: str | AsyncTaskHandle, timeout: float | None = None) -> Task: ...

    @overload
    async def wait(
        self, tasks: Iterable[str | AsyncTaskHandle], timeout: float | None = None
    ) -> builtins.list[Task]: ...

    async def wait(
        self,
        tasks: str | AsyncTaskHandle | Iterable[str | AsyncTaskHandle],
        timeout: float | None = None,
    ) -> Task | builtins.list[Task]:
        """Waits until the task has ended, or all of them have, through every reconnect, and gives
        them as they ended. Raises Timeout when that took longer than `timeout` seconds, NotFound
        where one is gone, and Unavailable when no server is there to begin with."""
        if isinstance(tasks, (str, AsyncTaskHandle)):
            return (await self._wait_all([tasks], timeout))[0]
        return await self._wait_all(tasks, timeout)

    async def _wait_all(
        self, given: Iterable[str | AsyncTaskHandle], timeout: float | None
    ) -> builtins.list[Task]:
        until = math.inf if timeout is None else time.monotonic() + timeout
        names = [self._task_name(one if isinstance(one, str) else one.name) for one in given]
        waiting = Waiting(names)
        try:
            for chunk in waiting.chunks():
                await self._wait_for(waiting, chunk, until)
            for name, task in waiting.ended.items():
                waiting.ended[name] = task if task.is_whole() else await self._whole(task, until)
        except Timeout:
            if time.monotonic() < until:
                raise
            raise waiting.late(timeout) from None
        return [waiting.ended[name] for name in names]

    async def _wait_for(self, waiting: Waiting, names: Any, until: float) -> None:
        while not all(name in waiting.ended for name in names):
            # A server that was there once will be there again; one that never was may be a wrong
            # address.
            first = await self._get(names[0], self._within(until))
            if waiting.take(first) and len(names) == 1:
                return
            async with self._watch_names(names) as watch:
                while event := await watch.next(_left(until)):
                    if waiting.see(names, event):
                        return

    def _within(self, until: float) -> float:
        return min(self.timeout, max(until - time.monotonic(), 0))

    async def _whole(self, task: Task, until: float) -> Task:
        backoff = Backoff.for_streams()
        while True:
            try:
                whole = await self._get(task.name, self._within(until))
            except NotFound:
                return task
            except (Unavailable, Timeout):
                wait = backoff.next_wait()
                if time.monotonic() + wait >= until:
                    await asyncio.sleep(max(until - time.monotonic(), 0))
                    raise Timeout("", code="DEADLINE_EXCEEDED") from None
                await asyncio.sleep(wait)
                continue
            # The name may be another task's by now.
            return whole if whole.uid == task.uid else task

    def watch_tasks(
        self,
        *,
        names: Iterable[str] | None = None,
        status: Statuses | None = None,
        queues: str | Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
        trace_id: str = "",
        interval: float | None = None,
        start: Position | None = None,
        updates_only: bool = False,
        until_terminal: int | bool = False,
    ) -> AsyncTaskWatch:
        """Follows the tasks that match: an iterator of events, each with a consistent view of all
        of them. `interval` is the least time between two events, in seconds. `start` is a position
        to go on from. With `until_terminal` it ends when all of `names`, or so many tasks that
        match, have ended."""
        found = _requests.task_filter(self.namespace, names, status, queues, labels, trace_id)
        kind = TaskKind(self.namespace, found, bool(until_terminal), int(until_terminal))
        options = _requests.watch_options(interval, updates_only)
        return self._watch(
            AsyncWatch(self.address, self._watch_channel, kind, options, task_event, start)
        )

    def _watch_names(self, names: Iterable[str]) -> AsyncTaskWatch:
        names = builtins.list(names)
        found = _requests.task_filter(self.namespace, names)
        kind = TaskKind(_names.namespace_of(names[0]), found, until_terminal=True)
        options = _requests.watch_options(None, False)
        return self._watch(AsyncWatch(self.address, self._watch_channel, kind, options, task_event))

    def watch_task(self, task: str) -> AsyncIterator[Task]:
        """One task each time it has changed, until it has ended. Raises NotFound where there is
        none, or no more."""
        return self._watch_task(self._task_name(task))

    async def _watch_task(self, name: str) -> AsyncIterator[Task]:
        waiting = Waiting([name])
        async with self._watch_names([name]) as watch:
            async for event in watch:
                for task in event.changes:
                    yield task
                if waiting.see([name], event):
                    return

    def watch_state(
        self,
        state: str,
        *,
        keys: str | Iterable[str] | None = None,
        prefixes: str | Iterable[str] | None = None,
        interval: float | None = None,
        inline_limit: int = 0,
        start: Position | None = None,
        updates_only: bool = False,
        until: str | AsyncTaskHandle | None = None,
    ) -> AsyncStateWatch:
        """Follows a state, or some of its keys: an iterator of events, each with a consistent view.
        A state that is not there yet is followed all the same. `interval` is the least time between
        two events, in seconds: 0.1 suits a screen. Values over `inline_limit` bytes (0: 64 KiB; at
        most 1 MiB) come as a LargeValue, so that they do not delay the small ones.

        The first event has the whole state. With `start`, what has changed since that position
        comes instead, and where that is nothing, one event without `changes`; the view then has
        those changes alone, or the whole state again where the position is too old to go on from.
        With `updates_only` the first event is empty. All of them come at once; a watch that resumes
        by itself after a break repeats none.

        With `until`, a task or its name, it ends by itself once that task has ended and the view is
        as fresh as its end: what the task wrote last was seen then. Raises NotFound where there is
        no such task."""
        name = _names.full_name(state, self.namespace, "states")

        async def fetch(key: str) -> Any:
            return _requests.only_value(
                await self._call(_requests.GET_STATE, _requests.get_state(name, [key])), key
            )

        kind = StateKind.of(name, keys, prefixes, inline_limit, fetch)
        options = _requests.watch_options(interval, updates_only)
        return self._watch(
            AsyncWatch(
                self.address,
                self._watch_channel,
                kind,
                options,
                state_event,
                start,
                until=self._end_of(name, until),
            )
        )

    def _end_of(
        self, state: str, task: str | AsyncTaskHandle | None
    ) -> Callable[[], AsyncTaskEnd] | None:
        if task is None:
            return None
        name = self._task_name(task if isinstance(task, str) else task.name)
        check_namespaces(state, name)
        return lambda: AsyncTaskEnd(name, self._watch_names([name]))

    async def get_state(
        self,
        state: str,
        keys: str | Iterable[str] | None = None,
        *,
        min_position: Position | None = None,
    ) -> StateView:
        """The state, or some of its keys, as of one revision. Raises NotFound, and ValueTooLarge or
        QuotaExceeded where it is over 4 MiB: ask for fewer keys then."""
        name = _names.full_name(state, self.namespace, "states")
        request = _requests.get_state(name, keys, min_position)
        return read_state(await self._call(_requests.GET_STATE, request))

    async def update_state(
        self,
        state: str,
        values: Mapping[str, Any] | None = None,
        *,
        add: Mapping[str, float] | None = None,
        max: Mapping[str, float] | None = None,
        min: Mapping[str, float] | None = None,
        delete: str | Iterable[str] = (),
        expected_revision: int = 0,
        request_id: str = "",
    ) -> Position:
        """Writes to a state in one commit, which is durable when this returns, and creates it if
        need be. `add`, `max` and `min` are applied by the server. `expected_revision` is a state's
        `revision` as it was read: raises RevisionMismatch where it has changed since. Raises
        InvalidArgument or ValueTooLarge where keys were not accepted; the others have taken effect.

        For what is written often there is StateQueue."""
        name = _names.full_name(state, self.namespace, "states")
        request_id = request_id or str(uuid.uuid4())
        request = _requests.update_state(
            name, values, add, max, min, delete, expected_revision, request_id
        )
        return _requests.updated(await self._call(_requests.UPDATE_STATE, request))

    async def delete_state(self, state: str, *, uid: str = "") -> Position:
        """Deletes a state; with `uid`, that incarnation alone. Raises NotFound."""
        name = _names.full_name(state, self.namespace, "states")
        request = states.DeleteStateRequest(name=name, uid=uid)
        return Position.of((await self._call(_requests.DELETE_STATE, request)).position)

    async def states(self) -> AsyncIterator[str]:
        """The ids of the namespace's states, in order, read page after page."""
        request = _requests.list_states(self.namespace)
        while True:
            answer = await self._call(_requests.LIST_STATES, request)
            for state in answer.states:
                yield _names.short_name(state.name)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def errors(self) -> AsyncIterator[ErrorGroup]:
        """What went wrong in the namespace, grouped, read page after page."""
        request = _requests.list_errors(self.namespace)
        while True:
            answer = await self._call(_requests.LIST_ERRORS, request)
            for group in answer.groups:
                yield ErrorGroup.of(group)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def info(self) -> ServerInfo:
        """The server's version, features and limits."""
        return ServerInfo.of(await self._call(_requests.GET_INFO, _requests.INFO))

    async def close(self) -> None:
        """Ends all watches and connections of this client. Calls of it raise after that."""
        self._closed = True
        for watch in builtins.list(self._watches):
            watch.cancel()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    async def _call(self, method: Method[Q, A], request: Q, timeout: float | None = None) -> A:
        self._check_open()
        timeout = self.timeout if timeout is None else timeout
        channel = self._channel("control")
        return await unary_async(channel, self.address, method, request, timeout)

    def _watch_channel(self) -> grpc.aio.Channel:
        return self._channel("watch")

    def _channel(self, purpose: _connection.Purpose) -> grpc.aio.Channel:
        # A connection belongs to the event loop that it was made in.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._channels = loop, {}
        if purpose not in self._channels:
            self._channels[purpose] = grpc.aio.insecure_channel(
                _connection.target_of(self.address), options=_connection.OPTIONS
            )
        return self._channels[purpose]

    def _check_open(self) -> None:
        if self._closed:
            raise DuiteError("this client is closed: make another", code="FAILED_PRECONDITION")

    def _watch(self, watch: Any) -> Any:
        self._check_open()
        self._watches.add(watch)
        return watch

    def _task_name(self, task: str) -> str:
        return _names.full_name(task, self.namespace, "tasks")

    def _handle(self, task: Task) -> AsyncTaskHandle:
        return AsyncTaskHandle(self, task.name, task.state)

    def _handles(self, results: builtins.list[Any], return_exceptions: bool) -> Any:
        handles = [self._handle(one) if isinstance(one, Task) else one for one in results]
        if not return_exceptions:
            for one in handles:
                if isinstance(one, DuiteError):
                    raise one
        return handles

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.address, self.namespace, self.timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncClient {self.address} {self.namespace}>"


def _rebuild(address: str, namespace: str, timeout: float) -> AsyncClient:
    return AsyncClient(address, namespace, timeout=timeout)


def _left(until: float) -> float | None:
    return None if until == math.inf else max(until - time.monotonic(), 0)
