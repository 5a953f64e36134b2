"""Asks for work when there is room for it: a long poll for as many tasks as can begin."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from duite import errors
from duite._attempts import Attempts
from duite._backoff import Backoff
from duite._fork import gate
from duite._outage import Outage
from duite.v1 import worker_service_pb2 as work
from duite.v1 import worker_service_pb2_grpc

log = logging.getLogger("duite")

# How long the server may keep a question for work.
_WAIT = 20
# What an answer may take beyond that.
_WAIT_SLACK = 10.0
# An answer without work that comes sooner is one of a server that does not wait, because it is
# ending or has too many who ask.
_SOON = 1.0
# The API's limit for one question.
_MOST_TASKS = 1000
# How often it looks up from waiting.
_LOOK = 0.5


class Leasing:
    """The loop that asks. `begin` is given the leases of an answer and when they were received;
    `refuse` the tokens of those that came when no more work is wanted."""

    def __init__(
        self,
        stub: worker_service_pb2_grpc.WorkerServiceStub,
        request: work.LeaseTasksRequest,
        attempts: Attempts,
        outage: Outage,
        begin: Callable[[list[work.Lease], float], None],
        refuse: Callable[[list[bytes]], None],
        ready: Callable[[], None],
    ) -> None:
        self._stub, self._request, self._attempts = stub, request, attempts
        self._outage, self._begin, self._ready = outage, begin, ready
        self._refuse = refuse
        self._stopped = threading.Event()
        self._call: Any = None
        self._thread = threading.Thread(target=self._run, name="duite-lease", daemon=True)

    def start(self) -> None:
        """Starts its thread."""
        self._thread.start()

    def stop(self, timeout: float) -> None:
        """Asks no more. Leases of an answer that is under way were never accepted and expire by
        themselves within seconds."""
        self._stopped.set()
        call = self._call
        if call is not None:
            call.cancel()
        self._thread.join(timeout)

    def interrupt(self) -> None:
        """Ends the question for the moment of a fork."""
        call = self._call
        if call is not None:
            call.cancel()

    def _run(self) -> None:
        # What it leases before would not be renewed.
        self._ready()
        backoff = Backoff.for_streams()
        while not self._stopped.is_set():
            room = self._attempts.wait_for_room(_LOOK)
            self._attempts.sweep(time.monotonic())
            if not room or self._stopped.is_set():
                continue
            gate.enter(self)
            try:
                wait = self._ask(room, backoff)
            except Exception:
                log.exception("asking for work failed")
                wait = backoff.next_wait()
            finally:
                gate.leave(self)
            self._pause(wait)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._stopped.wait(min(left, _LOOK)):
            self._attempts.sweep(time.monotonic())

    def _ask(self, room: int, backoff: Backoff) -> float:
        """One question; gives how long to wait before the next."""
        self._request.max_tasks = min(room, _MOST_TASKS)
        self._request.wait.FromSeconds(_WAIT)
        began = looked = time.monotonic()
        answered = threading.Event()
        call: Any = self._stub.LeaseTasks.future(self._request, timeout=_WAIT + _WAIT_SLACK)
        self._call = call

        def wake(_: object) -> None:
            answered.set()

        call.add_done_callback(wake)
        if self._stopped.is_set():
            call.cancel()
        while not answered.wait(_LOOK):
            looked = time.monotonic()
            self._attempts.sweep(looked)
        received = time.monotonic()
        try:
            leases = list(call.result().leases)
        except (grpc.FutureCancelledError, concurrent.futures.CancelledError):
            # For a fork, or the end.
            return 0.0
        except grpc.RpcError as failed:
            return self._failed(errors.from_rpc(failed, "lease tasks"), began, backoff)
        finally:
            self._call = None
        self._outage.worked(began)
        if self._stopped.is_set():
            self._refuse([lease.lease_token for lease in leases])
            return 0.0
        if not leases:
            return backoff.next_wait() if received - began < _SOON else 0.0
        # Where this process stood still (a handler held the interpreter's lock), the answer may
        # have been here for as long.
        stood_still = received - looked > 2 * _LOOK
        self._begin(leases, looked if stood_still else received)
        backoff.reset()
        return 0.0

    def _failed(self, error: errors.DuiteError, began: float, backoff: Backoff) -> float:
        if error.code == "CANCELLED":
            # For a fork, or the end.
            return 0.0
        wait = (error.retry_after or 0.0) + backoff.next_wait()
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            self._outage.failed(began, error.code)
        else:
            log.warning("%s, asking again in %.1f s", error, wait)
        return wait
