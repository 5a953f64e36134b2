"""The span that a handler runs in, where OpenTelemetry is installed: a child of the attempt's span,
which is the server's. Without it the attempt's own context is what the handler's calls name.

The server records the exception of a failed attempt, once; here the span only gets its status.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from duite import _telemetry
from duite.v1 import common_pb2 as pb

if TYPE_CHECKING:
    from opentelemetry.trace import Span


def _api() -> tuple[Any, Any] | None:
    try:
        from opentelemetry import propagate, trace
    except ImportError:
        return None
    return trace, propagate


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
) -> Generator[HandlerSpan, None, None]:
    """Runs its body in the span `handle TYPE`, a child of `parent`."""
    parent = parent if parent is not None and parent.traceparent else None
    of_attempt = (parent.traceparent, parent.tracestate) if parent is not None else None
    token = _telemetry.attempt.set(of_attempt)
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
        _telemetry.attempt.reset(token)
