"""Failures of this process's own tasks, told to a server.
 What `duite.asynchronous` catches is logged; where an address is configured it is reported as
well, and lands in the server's error groups. Configured means: `DUITE_REPORT_ADDR`, else
`DUITE_ADDR`, is set when the first failure comes, or a program has called `report_failures_to`.
`DUITE_REPORT_ADDR=off` keeps everything here. There is no default address.

Whoever fails never waits: a report goes into a bounded queue, and a daemon thread sends it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import grpc

from duite import _connection, _names
from duite._backoff import Backoff
from duite._exits import before_exit
from duite.errors import DuiteError, from_rpc
from duite.failure import failure_of
from duite.v1 import error_service_pb2 as errors_pb
from duite.v1 import error_service_pb2_grpc as errors_grpc

__all__ = ["flush_reports", "report_failure", "report_failures_to"]

CAPACITY = 1024
"""Reports that wait at most; what comes then is dropped and counted."""

CAPACITY_BYTES = 16 << 20
"""The same in bytes."""

_MAX_REPORTS = 100  # the API's limit for one call
_MAX_BYTES = 3 << 20  # below the 4 MiB that a call may weigh
_MAX_ID = 128
_LINGER = 1.0  # so long a report waits for company, in seconds
_PATIENCE = 600.0  # so long is a batch tried that the server cannot take now
_TIMEOUT = 10.0
_WARN_EVERY = 60.0
_AT_EXIT = 1.0  # a process that ends gives its last reports so long

_log = logging.getLogger("duite.reports")


class Reporter:
    """A bounded queue of reports and the thread that empties it by `send`.

    `send` gives the least seconds to wait before the same reports are to be sent again; None:
    they are settled. Where it raises they are lost.
    """

    def __init__(
        self,
        send: Callable[[list[errors_pb.FailureReport]], float | None],
        *,
        capacity: int = CAPACITY,
        capacity_bytes: int = CAPACITY_BYTES,
        patience: float = _PATIENCE,
        linger: float = _LINGER,
    ) -> None:
        self._send, self._patience, self._linger = send, patience, linger
        self._capacity, self._capacity_bytes = capacity, capacity_bytes
        # Guards all that follows; never held while something is sent.
        self._changed = threading.Condition()
        self._waiting: list[errors_pb.FailureReport] = []
        self._sending = 0
        self._bytes = 0  # of all of them
        self._hurried = False
        self._thread: threading.Thread | None = None
        self._told: tuple[int, float] | None = None
        self.dropped: int = 0

    def renewed(self) -> Reporter:
        """An empty one that sends to the same place: for a process made by `fork`."""
        return Reporter(
            self._send,
            capacity=self._capacity,
            capacity_bytes=self._capacity_bytes,
            patience=self._patience,
            linger=self._linger,
        )

    def take(self, report: errors_pb.FailureReport) -> bool:
        """Queues a report; False where there was no room. Never waits."""
        with self._changed:
            count, weight = len(self._waiting) + self._sending, self._bytes + report.ByteSize()
            if count >= self._capacity or weight > self._capacity_bytes:
                self.dropped += 1
                return False
            self._waiting.append(report)
            self._bytes = weight
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="duite-reports", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return True

    def flush(self, timeout: float) -> int:
        """Waits until nothing is left, at most so many seconds. Says how many reports are left."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._sending, timeout)
            self._hurried = False
            return len(self._waiting) + self._sending

    def _run(self) -> None:
        while True:
            batch = self._gather()
            settled = self._deliver(batch)
            with self._changed:
                self._sending = 0
                self._bytes -= sum(report.ByteSize() for report in batch)
                self.dropped += 0 if settled else len(batch)
                self._changed.notify_all()
            self._warn()

    def _gather(self) -> list[errors_pb.FailureReport]:
        with self._changed:
            while not self._waiting:
                if not self._changed.wait(_WARN_EVERY):
                    self._warn()
            self._changed.wait_for(
                lambda: self._hurried or len(self._waiting) >= _MAX_REPORTS, self._linger
            )
            count = weight = 0
            for report in self._waiting[:_MAX_REPORTS]:
                weight += report.ByteSize()
                if count and weight > _MAX_BYTES:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            self._sending = count
            return batch

    def _deliver(self, batch: list[errors_pb.FailureReport]) -> bool:
        until = time.monotonic() + self._patience
        backoff = Backoff.for_streams()
        while True:
            try:
                wait = self._send(batch)
            except Exception as error:  # noqa: BLE001 - the thread goes on whatever comes
                _log.debug("a batch of failure reports was given up: %s", type(error).__name__)
                return False
            if wait is None:
                return True
            wait += backoff.next_wait()
            if time.monotonic() + wait >= until:
                return False
            self._warn()
            time.sleep(wait)

    def _warn(self) -> None:
        # One line a minute at most says what was lost since the last.
        told, at = self._told or (0, float("-inf"))
        if self.dropped == told or time.monotonic() - at < _WARN_EVERY:
            return
        _log.warning(
            "%d failure reports were lost: too many at once, or the server did not take them",
            self.dropped - told,
        )
        self._told = (self.dropped, time.monotonic())


class _Target:
    """Sends reports to a server."""

    def __init__(self, address: str, namespace: str | None) -> None:
        _connection.target_of(address)  # an address that is none is told of here
        self._address = address
        self._parent = f"namespaces/{_names.default_namespace(namespace)}"

    def __call__(self, batch: list[errors_pb.FailureReport]) -> float | None:
        channel = _connection.channel(self._address, "control")
        request = errors_pb.ReportFailuresRequest(parent=self._parent, reports=batch)
        stub: Any = errors_grpc.ErrorServiceStub(channel)
        try:
            stub.ReportFailures(request, timeout=_TIMEOUT)
        except grpc.RpcError as raised:
            return _wait_after(from_rpc(raised, "report failures"))
        return None


def _wait_after(error: DuiteError) -> float:
    # A passed deadline may have taken effect; the ids make each report count once.
    if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return error.retry_after or 0.0
    if error.code == "RESOURCE_EXHAUSTED" and error.retry_after is not None:
        return error.retry_after
    raise error


_lock = threading.Lock()
_reporter: Reporter | None = None
_decided = False


def report_failures_to(address: str, namespace: str | None = None) -> None:
    """Reports failures to this server and namespace, in place of the environment's.

    Reports are sent in the background, up to 100 in a call, at the latest after a second. At most
    1,024 wait, and 16 MiB; what comes then is dropped and counted, and a warning says so once a
    minute. A report is tried again for ten minutes, and counts once however often it is sent.
    Replaces the server that an earlier call named, for what is reported from now on.

    InvalidArgument: the address or namespace is none.
    """
    global _reporter, _decided
    reporter = Reporter(_Target(address, namespace))
    with _lock:
        _reporter, _decided = reporter, True


def report_failure(name: str, error: BaseException) -> bool:
    """Reports that the task or function `name` has failed with `error`, outside of a leased task.

    False where no server is configured, or too many reports wait. Never waits, never raises.
    """
    reporter = _configured_reporter()
    if reporter is None:
        return False
    try:
        report = report_of(name, error)
    except Exception:  # noqa: BLE001 - an exception that cannot even be printed, for one
        _log.debug("a failure could not be reported", exc_info=True)
        return False
    before_exit(_at_exit)
    return reporter.take(report)


def flush_reports(timeout: float = 5.0) -> int:
    """Sends what waits, for at most so many seconds; to be called before a process ends. Says how
    many reports are left. (A process that ends in order does so by itself, for a second.)"""
    reporter = _reporter
    return reporter.flush(timeout) if reporter else 0


def report_of(name: str, error: BaseException) -> errors_pb.FailureReport:
    """The report, with an id of its own."""
    failure = failure_of(error)
    return errors_pb.FailureReport(
        report_id=str(uuid.uuid4()), task_type=id_of(name), failure=failure
    )


def id_of(name: str) -> str:
    """A task's name as an id: letters, digits and `._~-`. The `<locals>` of Python's qualified
    names is left out."""
    name = name.replace(".<locals>", "").lstrip(".")
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._~-") else "_" for c in name)
    return kept[:_MAX_ID] or "task"


def configured_address(environment: Mapping[str, str]) -> str | None:
    """Where the environment says that failures are reported to, if anywhere."""
    address = environment.get("DUITE_REPORT_ADDR") or environment.get("DUITE_ADDR")
    return address if address and address != "off" else None


def _configured_reporter() -> Reporter | None:
    global _reporter, _decided
    if _decided:
        return _reporter
    with _lock:
        if not _decided:
            _decided = True
            address = configured_address(os.environ)
            try:
                _reporter = Reporter(_Target(address, None)) if address else None
            except DuiteError as error:
                _log.warning("failures are not reported: %s", error)
        return _reporter


def _at_exit() -> None:
    flush_reports(_AT_EXIT)


def _forget() -> None:
    # The parent sends what is the parent's; a server that it named holds for the child too.
    global _lock, _reporter
    _lock = threading.Lock()
    if _reporter:
        _reporter = _reporter.renewed()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
