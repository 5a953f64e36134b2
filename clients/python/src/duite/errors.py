"""What can go wrong, as exceptions: one class for each thing a caller may want to catch.

Every error of the service carries a *reason*, such as `TASK_NOT_FOUND`; the class follows from it.
docs/ERRORS.md lists them all. Act on the class or the reason, never on the message.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from duite.v1 import common_pb2

__all__ = [
    "AlreadyExists",
    "DuiteError",
    "FailedPrecondition",
    "InternalError",
    "InvalidArgument",
    "LeaseLost",
    "NotFound",
    "PositionLost",
    "QuotaExceeded",
    "RevisionMismatch",
    "TaskCancelled",
    "TaskFailed",
    "Timeout",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "ValueTooLarge",
    "WriterLost",
]


class DuiteError(Exception):
    """The base of all errors of this package.

    `reason` is the service's, in UPPER_SNAKE_CASE (see docs/ERRORS.md); `""` where the error is not
    the service's. `code` is gRPC's name of the status, such as `NOT_FOUND`. `metadata` has small
    facts. `retry_after` is how many seconds to wait before trying again, where the service said.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: str = "UNKNOWN",
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} ({self.reason})" if self.reason else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


def _rebuild(kind: type[DuiteError], args: tuple[Any, ...], fields: dict[str, Any]) -> DuiteError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidArgument(DuiteError, ValueError):
    """The request is wrong as it is; the message names the field. Correct it."""


class NotFound(DuiteError, LookupError):
    """There is no such task, state or error group."""


class AlreadyExists(DuiteError):
    """A task of this id stands already, made by a different request."""


class FailedPrecondition(DuiteError):
    """It cannot be done with the task as it is: it has ended, or it cannot be repeated."""


class LeaseLost(DuiteError):
    """The attempt is over: another has begun, or will. Stop the work."""


class RevisionMismatch(DuiteError):
    """The state has changed since it was read. Read it again and decide anew."""


class WriterLost(DuiteError):
    """The server has forgotten this writer, or another stream took it over."""


class PositionLost(DuiteError):
    """History up to that position is gone. Begin without it."""


class QuotaExceeded(DuiteError):
    """A limit of the service is reached. Wait for `retry_after` seconds, or use less."""


class ValueTooLarge(DuiteError, ValueError):
    """A value, input or batch is over its limit."""


class Unavailable(DuiteError, ConnectionError):
    """The server was not reached, or is starting or stopping, and went on being so."""


class Timeout(DuiteError, TimeoutError):
    """There was no answer in time."""


class Unauthenticated(DuiteError, PermissionError):
    """The server wants credentials, or others."""


class Unimplemented(DuiteError, NotImplementedError):
    """This server does not have it."""


class InternalError(DuiteError):
    """A defect of the service, or something unknown to this version of the package."""


class TaskFailed(DuiteError):
    """A task has failed for good. `failure` is the whole account of it, `task` its full name."""

    def __init__(self, task: str, failure: common_pb2.Failure) -> None:
        said = f"{failure.type}: {failure.message}" if failure.type else failure.message
        super().__init__(f"task {task} has failed: {said}", reason="", code="UNKNOWN")
        self.task = task
        self.failure = failure

    @property
    def stack_trace(self) -> str:
        """The stack as the worker's language prints it; may be empty."""
        return self.failure.stack_trace


class TaskCancelled(DuiteError):
    """A task was stopped because somebody asked for it. `task` is its full name."""

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task} was cancelled", code="CANCELLED")
        self.task = task


_BY_REASON: dict[str, type[DuiteError]] = {
    "TASK_EXISTS": AlreadyExists,
    "LEASE_LOST": LeaseLost,
    "REVISION_MISMATCH": RevisionMismatch,
    "WRITER_EXPIRED": WriterLost,
    "WRITER_TAKEN_OVER": WriterLost,
    "EPOCH_CHANGED": PositionLost,
    "REVISION_COMPACTED": PositionLost,
    "VALUE_TOO_LARGE": ValueTooLarge,
}

_BY_CODE: dict[str, type[DuiteError]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "OUT_OF_RANGE": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "ABORTED": FailedPrecondition,
    "RESOURCE_EXHAUSTED": QuotaExceeded,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": Timeout,
    "UNAUTHENTICATED": Unauthenticated,
    "PERMISSION_DENIED": Unauthenticated,
    "UNIMPLEMENTED": Unimplemented,
}


def from_rpc(error: grpc.RpcError, doing: str) -> DuiteError:
    """The exception for what a call ended with. `doing` says what was tried, such as
    `submit a task`."""
    code: str = error.code().name  # type: ignore[attr-defined]
    details: str = error.details() or ""  # type: ignore[attr-defined]
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == "grpc-status-details-bin":
            # A proxy may have made it.
            with contextlib.suppress(DecodeError):
                status.ParseFromString(value)
    return _build(code, details, status, doing)


def from_status(status: status_pb2.Status, doing: str) -> DuiteError:
    """The exception for one item of an answer."""
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    return _build(codes.get(status.code, "UNKNOWN"), status.message, status, doing)


def _build(code: str, details: str, status: status_pb2.Status, doing: str) -> DuiteError:
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after = None
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
    kind = _BY_REASON.get(info.reason) or _BY_CODE.get(code, InternalError)
    return kind(
        f"cannot {doing}: {details or code}",
        reason=info.reason,
        code=code,
        metadata=info.metadata,
        retry_after=retry_after,
    )
