"""What the API keeps of an exception."""

from __future__ import annotations

import errno
import platform
import traceback

from duite._texts import cut
from duite.v1 import common_pb2 as pb

RUNTIME = "python/" + ".".join(platform.python_version_tuple()[:2])

_MAX_MESSAGE_BYTES = 16 << 10
_MAX_STACK_BYTES = 64 << 10
_MAX_TYPE_BYTES = 128
_MAX_CAUSES = 8
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)


def failure_of(error: BaseException, *, max_stack_bytes: int = _MAX_STACK_BYTES) -> pb.Failure:
    """The account of an exception: class, message, stack, and up to 8 causes. The server finds
    the place in the stack. Retryable, as long as nobody says otherwise."""
    failure = _of_one(error, max_stack_bytes)
    failure.retryable = True
    _add_trace_context(failure)
    last, seen = failure, {id(error)}
    cause = _cause_of(error)
    while cause is not None and id(cause) not in seen and len(seen) <= _MAX_CAUSES:
        seen.add(id(cause))
        # Nine of them have to fit one report.
        last.cause.CopyFrom(_of_one(cause, max_stack_bytes // _MAX_CAUSES))
        last, cause = last.cause, _cause_of(cause)
    return failure


def _of_one(error: BaseException, max_stack_bytes: int) -> pb.Failure:
    printed = "".join(
        traceback.format_exception(type(error), error, error.__traceback__, chain=False)
    )
    return pb.Failure(
        category=_category_of(error),
        type=cut(type(error).__qualname__.replace("<locals>.", ""), _MAX_TYPE_BYTES),
        message=cut(_text_of(error), _MAX_MESSAGE_BYTES),
        # The innermost frame and the message come last.
        stack_trace=cut(printed, max_stack_bytes, keep_end=True),
        runtime=RUNTIME,
    )


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a class of the user's may be unable to say what it is
        return "(the exception's text could not be made)"


def _cause_of(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def _category_of(error: BaseException) -> pb.Failure.Category.ValueType:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _FULL):
        return pb.Failure.CATEGORY_RESOURCE
    if isinstance(error, TimeoutError):
        return pb.Failure.CATEGORY_TIMEOUT
    return pb.Failure.CATEGORY_APPLICATION


def _add_trace_context(failure: pb.Failure) -> None:
    try:
        from opentelemetry import propagate
    except ImportError:
        return
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if "traceparent" in carrier:
        failure.trace_context.traceparent = carrier["traceparent"]
        failure.trace_context.tracestate = carrier.get("tracestate", "")
