"""The trace context of OpenTelemetry's current span, where that package is installed and in use.

Nothing here fails: a call is worth more than its trace.
"""

from __future__ import annotations

import contextvars
from typing import Any

from duite.v1 import common_pb2

# The attempt whose handler runs here, where no span of OpenTelemetry's says it.
attempt: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar(
    "duite_attempt_trace", default=None
)

Metadata = tuple[tuple[str, str], ...]

try:
    from opentelemetry import trace as _imported
except ImportError:
    _imported = None
_trace: Any = _imported


def current() -> tuple[str, str] | None:
    """`traceparent` and `tracestate` of the current span, else of the attempt that runs here; None
    where there is neither."""
    return _of_span() or attempt.get()


def _of_span() -> tuple[str, str] | None:
    if _trace is None:
        return None
    try:
        context = _trace.get_current_span().get_span_context()
        if not context.is_valid:
            return None
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return parent, context.trace_state.to_header()
    except Exception:  # noqa: BLE001 - whatever a foreign implementation raises
        return None


def metadata() -> Metadata:
    """The headers that tell a call which trace it is made in."""
    found = current()
    if found is None:
        return ()
    parent, state = found
    # What is not ASCII cannot be sent as a header.
    if state and state.isascii():
        return (("traceparent", parent), ("tracestate", state))
    return (("traceparent", parent),)


def trace_context() -> common_pb2.TraceContext | None:
    """The same as a message, for what is stored."""
    found = current()
    return common_pb2.TraceContext(traceparent=found[0], tracestate=found[1]) if found else None
