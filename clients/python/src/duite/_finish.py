"""Brings outcomes home: whatever is ready goes in one FinishTasks call, one call at a time, until
it is answered."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import grpc

from duite import errors
from duite._attempts import Attempt
from duite._backoff import Backoff
from duite._fork import gate
from duite._outage import Outage
from duite.failure import made_failure
from duite.v1 import worker_service_pb2 as work
from duite.v1 import worker_service_pb2_grpc

log = logging.getLogger("duite")

# The API's limit for one call.
_MOST_OUTCOMES = 1000
# Below the 4 MiB that a call may weigh.
_MOST_BYTES = 3 << 20
_CALL_SECONDS = 10.0
# A server that was away gives each lease a full period when it comes back, so a result is worth
# bringing for a while after its lease has passed by our clock.
_PATIENCE = 600.0
# What a failure weighs at most that the server keeps whole, and some.
_MOST_FAILURE = 256 << 10
_REFUSED = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE")
_AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "INTERNAL", "CANCELLED", "UNKNOWN")
_DOING = "finish a task"


@dataclasses.dataclass
class _Finished:
    attempt: Attempt
    outcome: work.TaskOutcome
    # The server took it not, and this tells why in its place.
    refused: bool = False

    def replace(self, error: errors.DuiteError) -> bool:
        """Puts what the server says of it in the place of a result that it refuses: another attempt
        would come to the same, and nobody would learn why. Only once; false if that was it."""
        if self.refused or error.code not in _REFUSED or error.retry_after is not None:
            return False
        self.refused = True
        log.warning("the result of task %s was refused: %s", self.attempt.name, error.reason)
        outcome = self.outcome
        del outcome.contributions[:]
        del outcome.flushed[128:]
        is_failure = outcome.WhichOneof("outcome") == "failure"
        if not is_failure or outcome.failure.ByteSize() > _MOST_FAILURE:
            message = f"the server refused the result: {error}"
            outcome.failure.CopyFrom(made_failure("result.refused", message))
        return True


class Finisher:
    """Tells outcomes. `told` is called for each lease that needs to be held no more."""

    def __init__(
        self,
        stub: worker_service_pb2_grpc.WorkerServiceStub,
        outage: Outage,
        told: Callable[[Attempt], None],
    ) -> None:
        self._stub, self._outage, self._told = stub, outage, told
        self._ready: queue.SimpleQueue[_Finished | None] = queue.SimpleQueue()
        self._sent: Any = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="duite-finish", daemon=True)

    def start(self) -> None:
        """Starts its thread."""
        self._thread.start()

    def interrupt(self) -> None:
        """Ends the call for the moment of a fork; it is made again."""
        call = self._sent
        if call is not None:
            call.cancel()

    def put(self, attempt: Attempt, outcome: work.TaskOutcome) -> None:
        """Takes an outcome; returns at once."""
        outcome.lease_token = attempt.token
        self._ready.put(_Finished(attempt, outcome))

    def stop(self, timeout: float) -> bool:
        """Waits until everything is told; false where it was not in time."""
        self._ready.put(None)
        self._thread.join(timeout)
        self._stopped.set()
        return not self._thread.is_alive()

    def _run(self) -> None:
        waiting: list[_Finished] = []
        ending = False
        while waiting or not ending:
            if not waiting:
                first = self._ready.get()
                if first is None:
                    ending = True
                else:
                    waiting.append(first)
            while len(waiting) < _MOST_OUTCOMES:
                try:
                    more = self._ready.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                else:
                    waiting.append(more)
            fit = _how_many_fit(waiting)
            some, waiting = waiting[:fit], waiting[fit:]
            if some:
                self._finish(some)

    def _finish(self, finished: list[_Finished]) -> None:
        # The same id through all attempts; what was told already is answered with the task.
        request_id = str(uuid.uuid4())
        backoff = Backoff.for_calls()
        while finished and not self._stopped.is_set():
            error = self._call(finished, request_id)
            if error is None:
                continue
            if error.code not in _AGAIN and error.retry_after is None:
                if len(finished) > 1:
                    # One of them spoils it for the others.
                    for one in finished:
                        self._finish([one])
                    return
                if not finished[0].replace(error):
                    self._give_up(finished, error)
                    return
                continue
            now = time.monotonic()
            over = [one for one in finished if one.attempt.until + _PATIENCE <= now]
            self._give_up(over, error)
            finished[:] = [one for one in finished if one not in over]
            self._stopped.wait((error.retry_after or 0) + backoff.next_wait())

    def _call(self, finished: list[_Finished], request_id: str) -> errors.DuiteError | None:
        """One call; leaves in `finished` what is to be told again, after the error given if any."""
        request = work.FinishTasksRequest(
            outcomes=[one.outcome for one in finished], request_id=request_id
        )
        gate.enter(self)
        began = time.monotonic()
        self._sent = call = self._stub.FinishTasks.future(request, timeout=_CALL_SECONDS)
        try:
            answer = call.result()
        except grpc.FutureCancelledError:
            return errors.Unavailable("a fork came between", code="CANCELLED")
        except grpc.RpcError as failed:
            error = errors.from_rpc(failed, _DOING)
            if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
                self._outage.failed(began, error.code)
            return error
        finally:
            self._sent = None
            gate.leave(self)
        self._outage.worked(began)
        later: list[_Finished] = []
        again: errors.DuiteError | None = None
        results: list[Any] = list(answer.results)
        results += [None] * (len(finished) - len(results))
        for one, result in zip(finished, results, strict=False):
            if result is not None and result.HasField("task"):
                self._told(one.attempt)
                continue
            if result is None:
                error = errors.InternalError("the server's answer has no result for a task")
                error.retry_after = 0.0
            else:
                error = errors.from_status(result.error, _DOING)
            if error.retry_after is not None or error.code == "UNAVAILABLE":
                later.append(one)
                again = error
            elif one.replace(error):
                later.append(one)
            else:
                log.warning(
                    "the result of task %s was not taken: %s",
                    one.attempt.name,
                    error.reason or error.code,
                )
                self._told(one.attempt)
        finished[:] = later
        return again

    def _give_up(self, finished: list[_Finished], error: errors.DuiteError) -> None:
        for one in finished:
            log.error("the result of task %s could not be told: %s", one.attempt.name, error.code)
            self._told(one.attempt)


def _how_many_fit(waiting: list[_Finished]) -> int:
    size = 0
    for index, one in enumerate(waiting):
        size += one.outcome.ByteSize() + 8
        if size > _MOST_BYTES:
            return max(1, index)
    return len(waiting)
