"""What a handler is given: its task, its state, and whether it should stop.

`current_task()` finds it from anywhere below the handler, and in programs that a worker runs as a
task of type `exec`, from their environment.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import grpc

from duite import _connection, _names, _payloads, _requests, _telemetry, errors, logs
from duite._call import unary
from duite._signals import Signals
from duite._values import to_value
from duite.failure import Cancelled, PermanentError
from duite.v1 import common_pb2 as pb
from duite.v1 import state_service_pb2 as state_pb
from duite.v1 import task_service_pb2 as task_pb
from duite.v1 import task_service_pb2_grpc, worker_service_pb2
from duite.watches import StateView, read_state

if TYPE_CHECKING:
    from duite.state_queue import StateQueue

__all__ = ["CurrentTask", "current_task"]

# The API's limit for the marks of one outcome.
_MOST_MARKS = 128
# So long are writers waited for that a finish has no room to name.
_SURPLUS_SECONDS = 30.0
_FETCH_SECONDS = 10.0

_current: contextvars.ContextVar[CurrentTask | None] = contextvars.ContextVar(
    "duite_current_task", default=None
)
_environments: dict[tuple[str, str], CurrentTask] = {}
_environment_lock = threading.Lock()


class CurrentTask:
    """One attempt of one task, as its handler sees it. Safe to use from every thread of the
    handler's. Pickled, it is the same attempt in another process: it writes state there and knows
    the task, but hears of a cancel only by its state's queue."""

    def __init__(
        self,
        *,
        name: str,
        lease: bytes,
        address: str,
        task: task_pb.Task | None = None,
        state_name: str = "",
        trace: pb.TraceContext | None = None,
        signals: Signals | None = None,
    ) -> None:
        self._name, self._lease_token, self._address = name, lease, address
        self._task, self._state_name, self._trace = task, state_name, trace
        self._signals = signals or Signals()
        self._lock = threading.RLock()
        self._queues: dict[str, StateQueue] = {}
        self._contributions: dict[str, list[state_pb.KeyUpdate]] = {}
        self._over = False
        # Those that code of the handler's made without asking the task for one.
        self._adopted: list[StateQueue] = []
        # Found in the environment, it is the attempt of a program, whose end is the attempt's.
        self._is_own_process = signals is None

    # What it is.

    @property
    def name(self) -> str:
        """The task's full name, `namespaces/{namespace}/tasks/{id}`."""
        return self._name

    @property
    def id(self) -> str:
        """The last part of the name."""
        return _names.short_name(self._name)

    @property
    def type(self) -> str:
        """The task's type."""
        return self.proto.type

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self.proto.attempt

    @property
    def labels(self) -> dict[str, str]:
        """The task's labels."""
        return dict(self.proto.labels)

    @property
    def input(self) -> Any:
        """The input: what JSON says, text, bytes or a `duite.Blob`, as its content type tells; None
        where there is none. PermanentError where it is not what it says."""
        task = self.proto
        if not task.HasField("input"):
            return None
        try:
            return _payloads.from_payload(task.input)
        except errors.DuiteError as error:
            raise PermanentError(error.message, type="input.invalid") from None

    @property
    def proto(self) -> task_pb.Task:
        """The task as the service tells it. In a program that a worker runs it is asked for at its
        first use: `duite.DuiteError` where that fails."""
        with self._lock:
            if self._task is None:
                stub = task_service_pb2_grpc.TaskServiceStub(_connection.channel(self._address))
                request = task_pb.GetTaskRequest(name=self._name)
                try:
                    answer = stub.GetTask(request, timeout=_FETCH_SECONDS, wait_for_ready=True)
                except grpc.RpcError as error:
                    raise errors.from_rpc(error, f"read the task {self._name}") from error
                self._task = answer.task
            return self._task

    @property
    def lease(self) -> bytes:
        """The lease's token, for programs that write for this attempt. A secret: whoever has it can
        finish the task."""
        return self._lease_token

    @property
    def trace_context(self) -> pb.TraceContext | None:
        """The span that this attempt runs in, for calls that are not made by this package."""
        return _telemetry.trace_context() or self._trace

    # Stopping.

    @property
    def cancelled(self) -> bool:
        """Whether the task was asked to stop, or its lease is lost. Look at it often."""
        return self._signals.cancelled

    @property
    def cancel_reason(self) -> str:
        """Why, for people; may be empty."""
        return self._signals.reason

    def check_cancelled(self) -> None:
        """Raises `duite.Cancelled` where `cancelled` is true."""
        if self._signals.cancelled:
            raise Cancelled(self._signals.reason or "the task was asked to stop")

    def wait_cancelled(self, timeout: float | None = None) -> bool:
        """Waits until `cancelled` is true; false after `timeout` seconds. A `time.sleep` that ends
        when the task should."""
        return self._signals.wait(timeout)

    def on_cancel(self, function: Callable[[], object]) -> None:
        """Calls `function` once when the task is asked to stop or its lease is lost, on a thread of
        its own; at once where that has happened. For work that cannot look at `cancelled`: it may
        close a socket, end a program. What it raises is logged."""
        self._signals.on_cancel(function)

    # State.

    @property
    def state_name(self) -> str:
        """The full name of the task's state, else of the one that is named after the task."""
        if self._state_name:
            return self._state_name
        named = self._task.state_name if self._task is not None else ""
        return named or f"namespaces/{_names.namespace_of(self._name)}/states/{self.id}"

    @property
    def state(self) -> StateQueue:
        """The queue to the task's state. It writes for this attempt and no longer; the task ends
        after what it wrote is merged."""
        return self.state_named(self.state_name)

    def get_state(self, keys: str | Iterable[str] | None = None) -> StateView:
        """What the task's state holds now, or some of its keys: where an attempt before this one
        has left its checkpoint. Empty where there is nothing yet. What this attempt has just
        written is in it once `state.flush_wait()` has returned. Waits for the server, up to 10 s;
        in an `async def` handler give it to `asyncio.to_thread`. Raises `duite.DuiteError` where it
        cannot be read."""
        request = _requests.get_state(self.state_name, keys)
        try:
            return read_state(
                unary(self._address, _requests.GET_STATE, request, timeout=_FETCH_SECONDS)
            )
        except errors.NotFound:
            return StateView(self.state_name, 0)

    def state_named(self, state: str) -> StateQueue:
        """The same for another state of the task's namespace."""
        from duite.state_queue import StateQueue

        name = self._state(state)
        with self._lock:
            queue = self._queues.get(name)
            if queue is None:
                if self._over:
                    raise errors.LeaseLost(
                        f"the attempt of {self._name} has ended: it writes no more state",
                        code="FAILED_PRECONDITION",
                    )
                queue = self._queues[name] = StateQueue(
                    state=name,
                    addr=self._address,
                    lease=self._lease_token,
                    on_directive=self._directive,
                )
            return queue

    def on_change(
        self,
        keys: str | Iterable[str],
        function: Callable[..., object],
        *,
        state: str | None = None,
    ) -> Any:
        """Calls `function` when one of the keys of the task's state (or of `state`) changes, until
        the attempt ends: how people steer a task while it runs. See `StateQueue.on_change`."""
        context = contextvars.copy_context()

        def call(*arguments: Any) -> object:
            return context.copy().run(function, *arguments)

        queue = self.state if state is None else self.state_named(state)
        return queue.on_change([keys] if isinstance(keys, str) else list(keys), call)

    def contribute(
        self,
        state: str,
        values: Mapping[str, Any] | None = None,
        *,
        add: Mapping[str, float] | None = None,
        max: Mapping[str, float] | None = None,
        min: Mapping[str, float] | None = None,
        delete: Iterable[str] = (),
    ) -> None:
        """State operations that take effect exactly once for the task, with its success, however
        many attempts it takes: how many tasks keep one shared count exact."""
        updates = [state_pb.KeyUpdate(key=k, put=to_value(v)) for k, v in (values or {}).items()]
        updates += [state_pb.KeyUpdate(key=k, add=to_value(v)) for k, v in (add or {}).items()]
        updates += [state_pb.KeyUpdate(key=k, max=to_value(v)) for k, v in (max or {}).items()]
        updates += [state_pb.KeyUpdate(key=k, min=to_value(v)) for k, v in (min or {}).items()]
        updates += [state_pb.KeyUpdate(key=k, delete=True) for k in delete]
        with self._lock:
            self._contributions.setdefault(self._state(state), []).extend(updates)

    def environment(self) -> dict[str, str]:
        """Variables by which a program that the handler starts finds the server, this task and its
        state: `subprocess.run(…, env={**os.environ, **task.environment()})`."""
        found = {
            "DUITE_ADDR": self._address,
            "DUITE_NAMESPACE": _names.namespace_of(self._name),
            "DUITE_TASK": self._name,
            "DUITE_LEASE": self._lease_token.hex(),
            "DUITE_STATE": self.state_name,
        }
        trace = self.trace_context
        if trace is not None:
            found["TRACEPARENT"] = trace.traceparent
            if trace.tracestate:
                found["TRACESTATE"] = trace.tracestate
        return found

    # For the worker.

    def _state(self, state: str) -> str:
        return _names.full_name(state, _names.namespace_of(self._name), "states")

    def _directive(self, kind: str) -> None:
        if kind == "lost":
            self._signals.lose("the state's writer was told so")
        elif kind == "cancel":
            self._signals.cancel()

    def _adopt(self, queue: StateQueue) -> None:
        """What it writes is to be merged before the task ends."""
        with self._lock:
            if not self._over and not self._is_own_process:
                self._adopted.append(queue)

    def _has_many_queues(self) -> bool:
        # Each may have two writers.
        return 2 * (len(self._queues) + len(self._adopted)) > _MOST_MARKS

    def _close_queues(self) -> list[worker_service_pb2.WriterMark]:
        """Ends the attempt's writing, and says what it wrote last. What is still under way goes on
        being sent."""
        with self._lock:
            self._over = True
            queues = [*self._queues.values(), *self._adopted]
            self._queues, self._adopted = {}, []
        logs.flush_to(queues)
        marks = [(queue, mark) for queue in queues for mark in queue._marks()]  # pyright: ignore[reportPrivateUsage]
        if len(marks) > _MOST_MARKS:
            # What is acknowledged need not be named.
            until = time.monotonic() + _SURPLUS_SECONDS
            for queue in queues:
                if len(marks) > _MOST_MARKS and queue.flush_wait(max(0, until - time.monotonic())):
                    marks = [mark for mark in marks if mark[0] is not queue]
        for queue in queues:
            _settle(queue)
        return [
            worker_service_pb2.WriterMark(state_name=state, writer_id=writer, sequence=sequence)
            for _, (state, writer, sequence) in marks[:_MOST_MARKS]
        ]

    def _contributed(self) -> list[worker_service_pb2.Contribution]:
        with self._lock:
            return [
                worker_service_pb2.Contribution(state_name=name, updates=updates)
                for name, updates in self._contributions.items()
            ]

    def __reduce__(self) -> tuple[Any, ...]:
        task = self._task.SerializeToString() if self._task is not None else None
        trace = self.trace_context
        return _rebuild, (
            self._name,
            self._lease_token,
            self._address,
            task,
            self._state_name,
            trace.SerializeToString() if trace is not None else None,
        )

    def __repr__(self) -> str:
        return f"<duite.CurrentTask {self._name}>"


def current_task() -> CurrentTask | None:
    """The task whose handler runs here; in a program that a worker runs (`$DUITE_TASK`,
    `$DUITE_LEASE`, `$DUITE_STATE`), that task. None outside of both."""
    found = _current.get()
    return found if found is not None else _from_environment()


def _from_environment() -> CurrentTask | None:
    name, lease = os.environ.get("DUITE_TASK", ""), os.environ.get("DUITE_LEASE", "")
    if not name or not lease:
        return None
    with _environment_lock:
        if (name, lease) not in _environments:
            try:
                token = bytes.fromhex(lease)
            except ValueError:
                raise errors.InvalidArgument(
                    "$DUITE_LEASE is not what a worker gave: pass it on as it came",
                    code="INVALID_ARGUMENT",
                ) from None
            trace = pb.TraceContext(
                traceparent=os.environ.get("TRACEPARENT", ""),
                tracestate=os.environ.get("TRACESTATE", ""),
            )
            _environments[name, lease] = CurrentTask(
                name=_names.full_name(name, _names.default_namespace(), "tasks"),
                lease=token,
                address=_connection.address_from(),
                state_name=_full_state(os.environ.get("DUITE_STATE", ""), name),
                trace=trace if trace.traceparent else None,
            )
        return _environments[name, lease]


@contextlib.contextmanager
def standing_in_environment(
    task: CurrentTask, environment: Mapping[str, str]
) -> Generator[None, None, None]:
    """While its variables are this process's, `current_task()` finds this very task by them: a
    thread of the handler's writes for the attempt, and hears of its cancel."""
    key = environment["DUITE_TASK"], environment["DUITE_LEASE"]
    with _environment_lock:
        _environments[key] = task
    try:
        yield
    finally:
        with _environment_lock:
            _environments.pop(key, None)


def _full_state(state: str, task: str) -> str:
    namespace = _names.namespace_of(task) if "/" in task else _names.default_namespace()
    return _names.full_name(state, namespace, "states") if state else ""


def _rebuild(
    name: str, lease: bytes, address: str, task: bytes | None, state: str, trace: bytes | None
) -> CurrentTask:
    return CurrentTask(
        name=name,
        lease=lease,
        address=address,
        task=task_pb.Task.FromString(task) if task is not None else None,
        state_name=state,
        trace=pb.TraceContext.FromString(trace) if trace is not None else None,
    )


# How long what an attempt wrote last is still sent after its end: the server takes it for 10 s
# after the finish, and the finish may have to wait for a server.
_SETTLE_SECONDS = 60.0
_settling: set[threading.Thread] = set()
_settling_lock = threading.Lock()


def _settle(queue: StateQueue) -> None:
    def close() -> None:
        queue._close(_SETTLE_SECONDS)  # pyright: ignore[reportPrivateUsage]
        with _settling_lock:
            _settling.discard(thread)

    thread = threading.Thread(target=close, name="duite-settle", daemon=True)
    with _settling_lock:
        _settling.add(thread)
    thread.start()


def settle_all(timeout: float) -> bool:
    """Waits until everything that ended attempts wrote is acknowledged; false after `timeout`."""
    until = time.monotonic() + timeout
    with _settling_lock:
        waiting = list(_settling)
    for thread in waiting:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread in waiting)


def _after_fork() -> None:
    # A child has none of the parent's threads.
    global _settling_lock, _environment_lock
    _settling_lock, _environment_lock = threading.Lock(), threading.Lock()
    _settling.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
