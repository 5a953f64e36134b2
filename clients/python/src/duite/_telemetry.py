"""The headers that tell a call which trace it is made in.

Nothing here fails: a call is worth more than its trace.
"""

from __future__ import annotations

from duite._spans import current_trace
from duite.v1 import common_pb2

Metadata = tuple[tuple[str, str], ...]


def metadata() -> Metadata:
    """For the current span of OpenTelemetry, where that is installed and in use, or the attempt
    that this is called in; none without either."""
    try:
        found = current_trace()
    except Exception:  # noqa: BLE001 - whatever a foreign implementation raises
        return ()
    return headers(found)


def headers(context: common_pb2.TraceContext | None) -> Metadata:
    """The headers of a context. What is not ASCII cannot be sent as one."""
    if context is None or not context.traceparent or not context.traceparent.isascii():
        return ()
    parent = ("traceparent", context.traceparent)
    if context.tracestate and context.tracestate.isascii():
        return (parent, ("tracestate", context.tracestate))
    return (parent,)
