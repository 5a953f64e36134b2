"""Exceptions as failures: what the service keeps of one, and how a handler says more than it.

A failure has the type, the message, the stack, the causes and the place in the task's own code.
With the task's type these say which error group it belongs to, so nothing in them may differ
between two machines that fail alike: no folders, no ids.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import platform
import sysconfig
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from duite import _telemetry
from duite._payloads import to_payload
from duite.errors import InvalidArgument
from duite.v1 import common_pb2 as pb

__all__ = ["Cancelled", "PermanentError", "RetryLater", "failure_of"]

RUNTIME = "python/" + ".".join(platform.python_version_tuple()[:2])

_MOST_STACK, _MOST_MESSAGE = 64 << 10, 16 << 10
# With eight causes a failure stays within the 256 KiB that the server keeps whole.
_MOST_CAUSE_STACK, _MOST_CAUSE_MESSAGE = 16 << 10, 4 << 10
_MOST_CAUSES = 8
_MOST_DETAILS = 64 << 10
# What the stack's last lines (type, message and notes) may take of it.
_MOST_END = 8 << 10

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM}
_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_LIBRARIES = tuple(
    path + os.sep for key, path in sysconfig.get_paths().items() if key in ("stdlib", "platstdlib")
)


class PermanentError(Exception):
    """Raised by a handler where another attempt would fail alike: the task fails now.

    `type` takes the place of the class's name (of low cardinality, such as `mesh.invalid`);
    `metadata` are small facts; `details` anything larger: JSON, bytes or a `duite.Blob`, at most
    64 KiB.
    """

    retryable = False

    def __init__(
        self,
        message: str = "",
        *,
        type: str = "",
        metadata: Mapping[str, str] | None = None,
        details: Any = None,
    ) -> None:
        super().__init__(message)
        self.type: str = type
        self.metadata: dict[str, str] = dict(metadata or {})
        self.details: Any = details

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.__class__.__new__, (self.__class__, *self.args), self.__dict__)


class RetryLater(Exception):
    """Raised by a handler that should be tried again after `delay` seconds, in place of the pause
    of the task's policy. It costs an attempt like any failure."""

    retryable = True

    def __init__(self, message: str = "", *, delay: float) -> None:
        super().__init__(message)
        if not 0 <= delay < math.inf:
            raise ValueError(f"delay is {delay!r}: it should be 0 or more seconds, not for ever")
        self.delay = delay

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.__class__.__new__, (self.__class__, *self.args), self.__dict__)


class Cancelled(asyncio.CancelledError):
    """The task was asked to stop, or its lease is lost. A handler that lets it pass ends the task
    as CANCELLED. Like `asyncio.CancelledError` it is no `Exception`: `except Exception` lets it
    pass."""


def failure_of(error: BaseException) -> pb.Failure:
    """What the service keeps of an exception: type, message, stack (64 KiB at most, cut in its
    middle), up to eight causes, where in the task's own code it arose, whether another attempt may
    help, and the span it was raised in."""
    failure = _failure(error, _MOST_STACK, _MOST_MESSAGE)
    failure.retryable = _retryable(error)
    if isinstance(error, RetryLater):
        failure.retry_delay.FromMilliseconds(int(error.delay * 1000))
    if isinstance(error, PermanentError):
        _say_more(failure, error)
    trace = _telemetry.trace_context()
    if trace:
        failure.trace_context.CopyFrom(trace)
    failure.time.GetCurrentTime()
    into, seen = failure, {id(error)}
    for _ in range(_MOST_CAUSES):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None or id(cause) in seen:
            break
        seen.add(id(cause))
        into.cause.CopyFrom(_failure(cause, _MOST_CAUSE_STACK, _MOST_CAUSE_MESSAGE))
        into, error = into.cause, cause
    return failure


def made_failure(kind: str, message: str, *, retryable: bool = False) -> pb.Failure:
    """A failure that arises in this package, whose code is not the task's."""
    failure = pb.Failure(
        category=pb.Failure.CATEGORY_APPLICATION,
        type=kind,
        message=cut(message, _MOST_MESSAGE),
        runtime=RUNTIME,
        retryable=retryable,
    )
    failure.time.GetCurrentTime()
    return failure


def _failure(error: BaseException, most_stack: int, most_message: int) -> pb.Failure:
    begin = _own_part(error.__traceback__)
    return pb.Failure(
        category=_category(error),
        type=type(error).__qualname__.rsplit("<locals>.", 1)[-1],
        message=cut(_text(error), most_message),
        stack_trace=_stack(error, begin, most_stack),
        runtime=RUNTIME,
        location=_unicode(_location(begin)),
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a class of the user's that cannot say itself
        return f"(str() of it raised {type(broken).__name__})"


def _category(error: BaseException) -> pb.Failure.Category.ValueType:
    if isinstance(error, asyncio.CancelledError):
        return pb.Failure.CATEGORY_CANCELLED
    exhausted = isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _FULL
    )
    # As torch and others call theirs.
    if exhausted or type(error).__name__ == "OutOfMemoryError":
        return pb.Failure.CATEGORY_RESOURCE
    return pb.Failure.CATEGORY_APPLICATION


def _retryable(error: BaseException) -> bool:
    said = getattr(error, "retryable", None)
    return said if isinstance(said, bool) else not isinstance(error, asyncio.CancelledError)


def _say_more(failure: pb.Failure, error: PermanentError) -> None:
    failure.type = _unicode(error.type) or failure.type
    for key, value in error.metadata.items():
        failure.metadata[_unicode(str(key))] = _unicode(str(value))
    if error.details is not None:
        try:
            details = to_payload(error.details, "details")
            if details is not None:
                failure.details.CopyFrom(details)
        except InvalidArgument as refused:
            failure.metadata["duite.details"] = refused.message
        size = len(failure.details.data)
        if size > _MOST_DETAILS:
            # As the server would leave them out, but the call stays within its limit.
            failure.details.ClearField("data")
            failure.details.metadata["duite.omitted_bytes"] = str(size)


def _own_part(frames: TracebackType | None) -> TracebackType | None:
    # What stands above the handler is this package's.
    begin = frames
    while begin is not None and begin.tb_frame.f_code.co_filename.startswith(_HERE):
        begin = begin.tb_next
    return begin or frames


def _location(frames: TracebackType | None) -> str:
    found = ""
    while frames is not None:
        code = frames.tb_frame.f_code
        if _is_own(code.co_filename):
            found = f"{os.path.basename(code.co_filename)}:{code.co_name}"
        frames = frames.tb_next
    return found


def _is_own(file: str) -> bool:
    parts = file.replace("\\", "/").split("/")
    return not (
        "site-packages" in parts
        or "dist-packages" in parts
        or file.startswith(("<frozen ", _HERE))
        or file.startswith(_LIBRARIES)
    )


def _stack(error: BaseException, begin: TracebackType | None, most: int) -> str:
    try:
        end = "".join(traceback.format_exception_only(type(error), error))
        frames = "".join(traceback.format_tb(begin))
    except Exception as broken:  # noqa: BLE001 - see _text
        return f"(the stack could not be printed: {type(broken).__name__})"
    # The message is kept for itself; here it must not push out the frame that failed.
    end = cut(end, _MOST_END)
    head = "Traceback (most recent call last):\n" if frames else ""
    return head + _cut_middle(frames, most - len(end.encode()) - len(head)) + end


def _cut_middle(text: str, most: int) -> str:
    data = text.encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    mark = f"\n  ... ({len(data)} bytes, cut here)\n".encode()
    first = (most - len(mark)) // 4
    last = most - len(mark) - first
    return (data[:first] + mark + data[-last:]).decode(errors="ignore")


def _unicode(text: str) -> str:
    # Names of files may hold what is no character.
    return text.encode(errors="replace").decode()


def cut(text: str, most: int) -> str:
    """The text, within so many bytes of UTF-8; one that was cut says how long it was."""
    data = text.encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    mark = f"… (cut, {len(data)} bytes)".encode()
    return data[: most - len(mark)].decode(errors="ignore") + mark.decode()
