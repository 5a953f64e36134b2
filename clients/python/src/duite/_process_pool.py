"""Processes that run handlers, kept between tasks. They are spawned, not forked: a fork of a
process with threads and connections is a trap.

One whose handler does not stop when it should is killed: the only way to stop code that does not
look.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import threading
import time
from typing import Any

from duite import _process_main
from duite._attempts import Attempt
from duite.current import CurrentTask
from duite.errors import InvalidArgument
from duite.failure import made_failure
from duite.v1 import common_pb2 as pb
from duite.v1 import worker_service_pb2 as work

log = logging.getLogger("duite")

# A handler whose lease is lost has so long to notice before its process is killed.
LOST_GRACE = 5.0
# How often a process is looked at that was told to stop.
_LOOK = 0.25
# At the worker's end; then it is killed.
_EXIT_SECONDS = 12.0


def pickled(function: Any) -> bytes:
    """The function by its name. InvalidArgument where another process could not import it."""
    try:
        return pickle.dumps(function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InvalidArgument(
            f'{getattr(function, "__qualname__", function)!r} cannot run with run="process": '
            f"another process has to import it, so define it at the top of a module ({error})"
        ) from None


class _Process:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._sending = threading.Lock()
        # Not of mp's daemonic kind, which may have no children.
        self.process = context.Process(
            target=_process_main.main,
            args=(theirs, os.getpid()),
            name="duite-handler",
            daemon=False,
        )
        self.process.start()
        theirs.close()

    def send(self, kind: str, what: Any = None) -> None:
        with self._sending, contextlib.suppress(OSError):
            self.pipe.send((kind, what))

    def end(self, kill: bool) -> None:
        if kill:
            self.process.kill()
        # Not `join` with a timeout, which waits for what the process had open to be closed, as it
        # does not while a process that it forked lives on.
        until = time.monotonic() + _EXIT_SECONDS
        while self.process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class ProcessPool:
    """As many processes as attempts run at once, made when they are needed."""

    def __init__(self, address: str, cancel_grace: float) -> None:
        self._address, self._cancel_grace = address, cancel_grace
        self._lock = threading.Lock()
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._stopped = False
        # Before multiprocessing waits, at the interpreter's end, for children that wait for us.
        self._finalizer = multiprocessing.util.Finalize(None, self.stop, exitpriority=100)

    def run(self, attempt: Attempt, task: CurrentTask) -> work.TaskOutcome | None:
        """Runs an attempt to its end; none where its lease is lost. Blocks."""
        process = self._take()
        trace = task._trace  # pyright: ignore[reportPrivateUsage]
        job = _process_main.Job(
            function=pickled(attempt.handler.function),
            is_async=attempt.handler.is_async,
            takes_task=attempt.handler.takes_task,
            token=attempt.token,
            address=self._address,
            task=task.proto.SerializeToString(),
            trace=trace.SerializeToString() if trace is not None else None,
        )
        process.send("run", job)
        told: list[float] = []

        def tell() -> None:
            told.append(time.monotonic())
            signals = attempt.signals
            process.send("lost" if signals.lost else "cancel", (attempt.token, signals.reason))

        attempt.signals.listen(tell)
        try:
            answer = self._wait(process, attempt, told)
        except (EOFError, OSError):
            process.end(kill=False)
            self._forget(process)
            return _ended(process.process.exitcode)
        if answer is None:
            log.warning(
                "the handler of task %s did not stop in time, its process is killed", task.name
            )
            process.end(kill=True)
            self._forget(process)
            message = f"it did not stop within {self._cancel_grace:g} s and was killed"
            failure = made_failure("cancelled", message)
            failure.category = pb.Failure.CATEGORY_CANCELLED
            return None if attempt.signals.lost else work.TaskOutcome(failure=failure)
        self._give_back(process)
        return work.TaskOutcome.FromString(answer)

    def _wait(self, process: _Process, attempt: Attempt, told: list[float]) -> bytes | None:
        while not process.pipe.poll(_LOOK):
            # Its end of the pipe may live on in a process that it forked.
            if not process.process.is_alive() and not process.pipe.poll():
                raise EOFError
            if not told:
                continue
            now = time.monotonic()
            lost = attempt.signals.lost and told[-1] + LOST_GRACE <= now
            if lost or told[0] + self._cancel_grace <= now:
                return None
        _, outcome = process.pipe.recv()
        return outcome

    def pids(self) -> list[int]:
        """Of those that are alive."""
        with self._lock:
            return [it.process.pid for it in self._all if it.process.pid is not None]

    def stop(self) -> None:
        """Ends them all; what still runs is killed."""
        with self._lock:
            self._stopped = True
            idle, self._idle = self._idle, []
            busy = self._all - set(idle)
            self._all = set()
        for process in idle:
            process.send("exit")
        for process in busy:
            process.process.kill()
        for process in idle:
            process.end(kill=False)
        self._finalizer.cancel()

    def _take(self) -> _Process:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.process.is_alive():
                    return process
                self._all.discard(process)
        process = _Process()
        with self._lock:
            self._all.add(process)
        return process

    def _give_back(self, process: _Process) -> None:
        with self._lock:
            if not self._stopped:
                self._idle.append(process)

    def _forget(self, process: _Process) -> None:
        with self._lock:
            self._all.discard(process)


def _ended(code: int | None) -> work.TaskOutcome:
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        kind, how = f"signal.{-code}", f"was ended by {name}"
        if -code == signal.SIGKILL:
            how += ", perhaps because the machine ran out of memory"
    else:
        kind, how = f"exit.{code}", f"ended with code {code}"
    failure = made_failure(kind, f"the handler's process {how}", retryable=True)
    if code == -signal.SIGKILL:
        failure.category = pb.Failure.CATEGORY_RESOURCE
    return work.TaskOutcome(failure=failure)
