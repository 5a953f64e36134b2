"""The span that a handler runs in, where OpenTelemetry is installed: a child of the attempt's span,
which is the server's. Without it the attempt's own context is what the handler's calls name.

The server records the exception of a failed attempt, once; here the span only gets its status.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from duite.v1 import common_pb2 as pb

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# Set around a handler: what it belongs to where no OpenTelemetry says it.
_attempt: contextvars.ContextVar[pb.TraceContext | None] = contextvars.ContextVar(
    "duite_attempt_trace", default=None
)


def _api() -> tuple[Any, Any] | None:
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return None
    return trace, propagate


def current_trace() -> pb.TraceContext | None:
    """The context of the current span, else that of the attempt, else none."""
    api = _api()
    if api:
        carrier: dict[str, str] = {}
        api[1].inject(carrier)
        if carrier.get("traceparent"):
            return pb.TraceContext(
                traceparent=carrier["traceparent"], tracestate=carrier.get("tracestate", "")
            )
    return _attempt.get()


class HandlerSpan:
    """Says how the handler ended."""

    def __init__(self, span: Span | None) -> None:
        self._span = span

    def failed(self, kind: str, message: str) -> None:
        """Sets the span's status to error."""
        api = _api()
        if self._span is not None and api:
            self._span.set_attribute("error.type", kind)
            self._span.set_status(api[0].StatusCode.ERROR, message)


@contextlib.contextmanager
def handler_span(
    task_type: str, attributes: dict[str, str | int], parent: pb.TraceContext | None
) -> Iterator[HandlerSpan]:
    """Runs its body in the span `handle TYPE`, a child of `parent`."""
    parent = parent if parent is not None and parent.traceparent else None
    token = _attempt.set(parent)
    try:
        api = _api()
        if api is None:
            yield HandlerSpan(None)
            return
        trace, propagate = api
        carrier: dict[str, str] = {}
        if parent is not None:
            carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate}
        # The span belongs to its task's trace, not to what the worker happens to do: the context
        # is an empty one where the task is not traced.
        from opentelemetry.context import Context

        context = propagate.extract(carrier, context=Context())
        tracer = trace.get_tracer("duite")
        with tracer.start_as_current_span(
            f"handle {task_type}",
            context=context,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            yield HandlerSpan(span)
    finally:
        _attempt.reset(token)
