"""`Worker`: runs tasks.

worker = duite.Worker(queues=["gpu"])

@worker.task("train")
def train(task):
    for epoch in range(task.input["epochs"]):
        task.check_cancelled()
        task.state["epoch"] = epoch
    return {"loss": 0.1}

worker.run()
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import queue
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable
from typing import Any, Literal, TypeVar, overload

import grpc

from duite import _connection, _names
from duite._attempts import Attempt, Attempts
from duite._finish import Finisher
from duite._keeper import RENEW_EVERY
from duite._keeper_client import KeeperClient
from duite._leasing import Leasing
from duite._outage import Outage
from duite._pools import Loop, ThreadPool
from duite._process_pool import LOST_GRACE, ProcessPool, pickled
from duite._run import Handler, handler_of, run_async, run_sync
from duite.current import CurrentTask, settle_all
from duite.errors import InvalidArgument
from duite.failure import failure_of
from duite.v1 import common_pb2 as pb
from duite.v1 import worker_service_pb2 as work
from duite.v1 import worker_service_pb2_grpc

__all__ = ["Worker"]

_log = logging.getLogger("duite")

Function = TypeVar("Function", bound=Callable[..., Any])

# How long a stopping worker may take, beyond its drain time, for each of: results, state.
_TELL_SECONDS = 10.0
_CALL_SECONDS = 5.0
# The API's limit for one call.
_MOST_RELEASED = 1000
# Of a lease of which the server does not say it.
_VALID_FOR = 4.0


class Worker:
    """Takes tasks from queues and runs their handlers, up to `concurrency` at once (default: the
    number of processors), until it is stopped.

    `worker_id` is its name, the same after a restart (default: the host's name and the process's
    id). A handler in a process of its own that goes on for `cancel_grace` seconds after its task
    was asked to stop is killed. Nothing is connected before it starts.
    """

    def __init__(
        self,
        addr: str | None = None,
        namespace: str | None = None,
        queues: Iterable[str] = ("default",),
        *,
        concurrency: int | None = None,
        worker_id: str | None = None,
        cancel_grace: float = 30.0,
    ) -> None:
        self._address = _connection.address_from(addr)
        _connection.target_of(self._address)
        self._namespace = _names.default_namespace(namespace)
        names = [queues] if isinstance(queues, str) else list(queues)
        self._queues = [_names.checked_id(_names.short_name(name), "queue") for name in names]
        self._concurrency = concurrency if concurrency is not None else os.cpu_count() or 1
        if self._concurrency < 1:
            raise InvalidArgument(f"concurrency is {concurrency}: it should be 1 or more")
        self._worker_id = _names.checked_id(worker_id or _default_worker_id(), "worker")
        self._cancel_grace = cancel_grace
        self._handlers: dict[str, Handler] = {}
        self._running: _Running | None = None

    @property
    def worker_id(self) -> str:
        """Its stable name."""
        return self._worker_id

    @property
    def attempts(self) -> int:
        """How many handlers run now."""
        return self._running.attempts.running() if self._running else 0

    @overload
    def task(self, type: str) -> Callable[[Function], Function]: ...
    @overload
    def task(
        self, type: str, *, run: Literal["thread", "process"] | None
    ) -> Callable[[Function], Function]: ...
    def task(
        self, type: str, *, run: Literal["thread", "process"] | None = None
    ) -> Callable[[Function], Function]:
        """Decorates the function that runs tasks of a type; it stays callable. It is given the
        `CurrentTask`, or nothing, and what it returns is the task's output: None, anything that is
        JSON, bytes or a `duite.Blob`, at most 1 MiB.

        `run`: `"thread"` (the default of `def`), `"process"`: a process of its own, which may be
        killed and has its own interpreter's lock; the function has to be importable. `async def`
        runs on an event loop.
        """

        def decorate(function: Function) -> Function:
            self.add(type, function, run=run)
            return function

        return decorate

    def add(
        self,
        type: str,
        function: Callable[..., Any],
        *,
        run: Literal["thread", "process"] | None = None,
    ) -> None:
        """The same without a decorator. A second function of the same type takes the place of the
        first."""
        if self._running is not None:
            raise InvalidArgument(f"the worker runs already: add {type!r} before it starts")
        handler = handler_of(function, run)
        self._handlers[_names.checked_id(type, "task type")] = handler

    def start(self) -> None:
        """Starts it, on threads; returns at once. InvalidArgument where it has no handler."""
        self._start(None)

    def _start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._running is not None:
            raise InvalidArgument("the worker runs already")
        if not self._handlers:
            raise InvalidArgument(
                'a worker needs a handler: decorate one with @worker.task("type")'
            )
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                "the main module starts its worker when it is imported, as a process for a handler "
                'does: put that under `if __name__ == "__main__":`'
            )
        for handler in self._handlers.values():
            if handler.mode == "process":
                pickled(handler.function)
        self._running = _Running(
            self._address,
            self._namespace,
            self._queues,
            self._worker_id,
            self._handlers,
            self._concurrency,
            self._cancel_grace,
            loop,
        )
        self._running.start()

    def stop(self, drain: float = 30.0) -> None:
        """Takes no more work, waits up to `drain` seconds for what runs, tells the results, and
        gives back what is unfinished, so that it is tried elsewhere at once and costs no attempt. A
        handler in a thread that does not stop then is left behind."""
        running, self._running = self._running, None
        if running is not None:
            running.stop(drain)

    def run(self, drain: float = 30.0) -> None:
        """Runs until SIGTERM or SIGINT, then stops; a second signal ends the program at once. To be
        called on the main thread, or else nothing but the program's end stops it."""
        wake: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.start()
        with _signals(lambda number: wake.put(number)):
            number = wake.get()
        _log.info("%s: stopping, up to %g s for what runs", signal.Signals(number).name, drain)
        self.stop(drain)

    async def run_async(self, drain: float = 30.0) -> None:
        """The same on the running event loop, which also runs the `async def` handlers. Cancelling
        it stops the worker too."""
        loop = asyncio.get_running_loop()
        stopped = asyncio.Event()
        self._start(loop)
        try:
            with _signals(lambda _: loop.call_soon_threadsafe(stopped.set)):
                await stopped.wait()
        finally:
            await self._stop_async(drain)

    async def _stop_async(self, drain: float) -> None:
        stopping = asyncio.ensure_future(asyncio.to_thread(self.stop, drain))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            # Results are on their way.
            await stopping
            raise

    async def __aenter__(self) -> Worker:
        self._start(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_async(30.0)

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Running:
    """What a worker consists of between its start and its stop."""

    def __init__(
        self,
        address: str,
        namespace: str,
        queues: list[str],
        worker_id: str,
        handlers: dict[str, Handler],
        concurrency: int,
        cancel_grace: float,
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self.address, self.handlers = address, dict(handlers)
        # Leases belong to the instance: a restarted worker does not inherit those of before.
        who = {"worker_id": worker_id, "instance_uid": str(uuid.uuid4())}
        parent = f"namespaces/{namespace}"
        self.stub = worker_service_pb2_grpc.WorkerServiceStub(_connection.channel(address))
        self.attempts = Attempts(concurrency, lambda: self.keeper.replace())
        self.outage = Outage(address)
        config: dict[str, Any] = {"target": _connection.target_of(address), "parent": parent, **who}
        self.keeper = KeeperClient(config, self._on_news)
        self.finisher = Finisher(self.stub, self.outage, self._let_go)
        request = work.LeaseTasksRequest(
            parent=parent,
            queues=queues,
            task_types=sorted(handlers),
            worker_id=worker_id,
            instance_uid=who["instance_uid"],
        )
        self.leasing = Leasing(
            self.stub,
            request,
            self.attempts,
            self.outage,
            self._begin,
            self._release,
            self.keeper.wait_ready,
        )
        self.threads = ThreadPool("duite-handler")
        # Those that wait for a process; while they live, it does.
        self.waiters = ThreadPool("duite-process")
        self.processes = ProcessPool(address, cancel_grace)
        self.loop = Loop()
        if loop is not None:
            self.loop.adopt(loop)

    def start(self) -> None:
        self.keeper.start()
        self.finisher.start()
        if any(handler.mode == "async" for handler in self.handlers.values()):
            self.loop.start()
        self.leasing.start()

    # Attempts begin.

    def _begin(self, leases: list[work.Lease], received: float) -> None:
        begun: list[Attempt] = []
        for lease in leases:
            attempt = self._attempt(lease, received)
            if attempt is not None:
                begun.append(attempt)
                self.attempts.add(attempt)
        # Before anything runs: a handler may hold the interpreter's lock at once.
        self.keeper.keep((it.token, it.until, it.every) for it in begun)
        for index, attempt in enumerate(begun):
            try:
                self._dispatch(attempt)
            except Exception:
                # Such as: no more threads can be started.
                self._give_back(begun[index:])
                raise

    def _attempt(self, lease: work.Lease, received: float) -> Attempt | None:
        handler = self.handlers.get(lease.task.type)
        valid_for = lease.valid_for.ToTimedelta().total_seconds() or _VALID_FOR
        until = received + valid_for
        if handler is None or until <= time.monotonic():
            # Never accepted, it expires by itself and costs no attempt.
            _log.debug("a lease of task %s came too late", lease.task.name)
            return None
        every = lease.renew_interval.ToTimedelta().total_seconds() or RENEW_EVERY
        attempt = Attempt(lease.lease_token, lease.task.name, until, every, handler)
        trace = lease.trace_context if lease.HasField("trace_context") else None
        attempt.task = CurrentTask(
            name=lease.task.name,
            lease=lease.lease_token,
            address=self.address,
            task=lease.task,
            trace=trace,
            signals=attempt.signals,
        )
        return attempt

    def _dispatch(self, attempt: Attempt) -> None:
        task, mode = attempt.task, attempt.handler.mode
        assert task is not None
        if mode == "thread":
            self.threads.submit(lambda: self._run(attempt, lambda: run_sync(attempt.handler, task)))
        elif mode == "process":
            self.waiters.submit(
                lambda: self._run(attempt, lambda: self.processes.run(attempt, task))
            )
        else:
            self.loop.submit(
                lambda: run_async(attempt.handler, task),
                attempt.signals.listen,
                lambda ended: self._run(attempt, ended),
            )

    def _run(self, attempt: Attempt, run: Callable[[], work.TaskOutcome | None]) -> None:
        try:
            outcome = run()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the task must end
            if not isinstance(error, asyncio.CancelledError):
                _log.exception("running task %s failed", attempt.name)
            outcome = work.TaskOutcome(failure=failure_of(error))
        if self._is_swept_away(attempt, outcome):
            # Not here, on the loop.
            self.waiters.submit(lambda: self._give_back([attempt]))
            return
        attempt.ended = True
        if outcome is None or attempt.released or attempt.signals.lost:
            _log.debug("the result of task %s is dropped, its lease is gone", attempt.name)
            self._let_go(attempt)
        else:
            self.finisher.put(attempt, outcome)
        # Only now: a stop that waits for handlers tells what was put before they had ended.
        self.attempts.handler_ended(attempt)

    def _is_swept_away(self, attempt: Attempt, outcome: work.TaskOutcome | None) -> bool:
        """Whether nobody asked the task to stop, but its event loop ended under it."""
        return (
            attempt.handler.mode == "async"
            and self.loop.is_ending()
            and not attempt.signals.cancelled
            and outcome is not None
            and outcome.failure.category == pb.Failure.CATEGORY_CANCELLED
        )

    def _give_back(self, attempts: list[Attempt]) -> None:
        """For attempts that did not run, or not to their end: another worker begins them anew."""
        for attempt in attempts:
            attempt.released = True
        self._release([attempt.token for attempt in attempts])
        for attempt in attempts:
            self._let_go(attempt)
            self.attempts.handler_ended(attempt)

    def _let_go(self, attempt: Attempt) -> None:
        self.keeper.drop(attempt.token)
        self.attempts.remove(attempt.token)

    # News of leases.

    def _on_news(self, news: dict[str, Any]) -> None:
        for token, (kind, until, reason) in news.get("leases", {}).items():
            attempt = self.attempts.get(bytes.fromhex(token))
            if attempt is None:
                continue
            if kind == "lost":
                attempt.lose(reason)
                continue
            attempt.until = max(attempt.until, until)
            if kind == "cancel":
                attempt.signals.cancel(reason)
        how, began, why = news.get("server") or ("", 0.0, "")
        if how == "failed":
            self.outage.failed(began, why)
        elif how == "worked":
            self.outage.worked(began)

    # The end.

    def stop(self, drain: float) -> None:
        self.leasing.stop(_CALL_SECONDS)
        if not self.attempts.wait(lambda: self.attempts.running() == 0, drain):
            left = [it for it in self.attempts.all() if not it.ended]
            _log.warning("giving back %d unfinished tasks", len(left))
            for attempt in left:
                attempt.released = True
                attempt.signals.lose("the worker stops")
            self.attempts.wait(lambda: self.attempts.running() == 0, LOST_GRACE + 1)
            self._release([attempt.token for attempt in left])
        if not self.finisher.stop(_TELL_SECONDS):
            _log.warning("results could not be told in time")
        if not settle_all(_TELL_SECONDS):
            _log.warning("state was not acknowledged in time")
        self.processes.stop()
        self.waiters.stop()
        self.threads.stop()
        self.loop.stop()
        self.keeper.stop()

    def _release(self, tokens: list[bytes]) -> None:
        for first in range(0, len(tokens), _MOST_RELEASED):
            request = work.ReleaseLeasesRequest(lease_tokens=tokens[first : first + _MOST_RELEASED])
            try:
                self.stub.ReleaseLeases(request, timeout=_CALL_SECONDS)
            except grpc.RpcError:
                _log.warning("leases were not given back, they will expire")
                return


def _default_worker_id() -> str:
    host = re.sub(r"[^A-Za-z0-9._~-]", "-", socket.gethostname()).lstrip(".")[:100]
    return f"{host or 'worker'}-{os.getpid()}"


@contextlib.contextmanager
def _signals(stop: Callable[[int], object]) -> Generator[None, None, None]:
    """Calls `stop` at SIGTERM and SIGINT; the second does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        before.clear()

    def handle(number: int, _: object) -> None:
        restore()
        stop(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
