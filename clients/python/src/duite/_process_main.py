"""The process that runs handlers of `run="process"`, one at a time, on its main thread.

A second thread hears of cancels, and ends the process when the worker is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Generator
from multiprocessing.connection import Connection
from typing import Any

from duite._run import Handler, run_async, run_sync
from duite._signals import Signals
from duite.current import CurrentTask, settle_all, standing_in_environment
from duite.failure import failure_of
from duite.v1 import common_pb2 as pb
from duite.v1 import task_service_pb2 as task_pb
from duite.v1 import worker_service_pb2 as work

# How often it looks whether the worker lives: its end of the pipe may live on in a fork of it.
_LOOK = 1.0
# How long it waits at its end for state that is not acknowledged.
_SETTLE_SECONDS = 10.0


@dataclasses.dataclass(frozen=True)
class Job:
    """One attempt, as it goes to the process."""

    # The function by its name, pickled apart: what cannot be imported is the task's failure.
    function: bytes
    is_async: bool
    takes_task: bool
    token: bytes
    address: str
    task: bytes
    trace: bytes | None


def main(pipe: Connection[Any, Any], worker_pid: int) -> None:
    """Runs jobs until the worker says `exit` or is gone."""
    # The worker drains on these, and says when to stop. A function in place of SIG_IGN: programs
    # that a handler starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    _die_with(worker_pid)
    jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
    running: dict[bytes, Signals] = {}

    def listen() -> None:
        try:
            while True:
                if not pipe.poll(_LOOK):
                    if os.name == "posix" and os.getppid() != worker_pid:
                        os._exit(1)
                    continue
                kind, what = pipe.recv()
                if kind == "run":
                    running[what.token] = Signals()
                    jobs.put(what)
                elif kind == "exit":
                    jobs.put(None)
                else:
                    token, reason = what
                    signals = running.get(token)
                    if signals is not None:
                        (signals.lose if kind == "lost" else signals.cancel)(reason)
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, name="duite-listen", daemon=True).start()
    while (job := jobs.get()) is not None:
        outcome = _run(job, running[job.token])
        del running[job.token]
        pipe.send((job.token, outcome.SerializeToString()))
    settle_all(_SETTLE_SECONDS)


def _ignore(number: int, frame: object) -> None:
    pass


def _run(job: Job, signals: Signals) -> work.TaskOutcome:
    outcome = work.TaskOutcome()
    try:
        function = pickle.loads(job.function)
    except Exception as error:  # noqa: BLE001 - the handler's module may raise anything
        outcome.failure.CopyFrom(failure_of(error))
        return outcome
    proto = task_pb.Task.FromString(job.task)
    trace = pb.TraceContext.FromString(job.trace) if job.trace is not None else None
    task = CurrentTask(
        name=proto.name,
        lease=job.token,
        address=job.address,
        task=proto,
        trace=trace,
        signals=signals,
    )
    with _environment(task):
        if job.is_async:
            return _run_async(Handler(function, "async", job.takes_task), task, signals)
        return run_sync(Handler(function, "thread", job.takes_task), task)


def _run_async(handler: Handler, task: CurrentTask, signals: Signals) -> work.TaskOutcome:
    import asyncio

    async def run() -> work.TaskOutcome:
        loop = asyncio.get_running_loop()
        running = asyncio.ensure_future(run_async(handler, task))
        # From its first step on, so that the handler sees the cancel.
        await asyncio.sleep(0)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(running.cancel)

        signals.listen(cancel)
        return await running

    return asyncio.run(run())


@contextlib.contextmanager
def _environment(task: CurrentTask) -> Generator[None, None, None]:
    """For programs that the handler starts."""
    told = task.environment()
    before = {name: os.environ.get(name) for name in (*told, "TRACEPARENT", "TRACESTATE")}
    os.environ.update(told)
    try:
        with standing_in_environment(task, told):
            yield
    finally:
        for name, text in before.items():
            if text is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = text


def _die_with(worker_pid: int) -> None:
    # The thread that listens cannot, while a handler holds the interpreter's lock.
    if sys.platform == "linux":
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            parent_death_signal = 1
            ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL)
        if os.getppid() != worker_pid:
            os._exit(1)
