"""The span of a handler, where OpenTelemetry is in use; and what stands for it where it is not."""

from __future__ import annotations

import pytest
import worker_program
from working import Status, Tasks

import duite
from duite import _telemetry
from duite.v1 import common_pb2 as common

sdk = pytest.importorskip("opentelemetry.sdk.trace")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SUBMITTED = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(scope="module")
def exporter():
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, sdk.TracerProvider):
        provider = sdk.TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def tasks(server, name, exporter):
    exporter.clear()
    return Tasks(server.address, name[-60:])


@pytest.fixture
def worker(tasks):
    worker = duite.Worker(tasks.address, queues=[tasks.queue], concurrency=2)
    yield worker
    worker.stop(drain=0)


def traced():
    return common.TraceContext(traceparent=SUBMITTED)


def test_a_handlers_span_is_a_child_of_the_attempts(tasks, worker, exporter):
    seen = []

    @worker.task("solve")
    def solve(task):
        seen.append(_telemetry.current()[0])
        seen.append(task.environment()["TRACEPARENT"])

    worker.start()
    task = tasks.ended(tasks.submit("solve", trace_context=traced()))
    worker.stop()
    (span,) = exporter.get_finished_spans()
    assert span.name == "handle solve"
    assert f"{span.context.trace_id:032x}" == TRACE
    attempt = task.attempts[0].trace_context.traceparent.split("-")
    assert f"{span.parent.span_id:016x}" == attempt[2]
    assert dict(span.attributes)["task.type"] == "solve"
    # What the handler calls and starts is below it.
    assert seen == [f"00-{TRACE}-{span.context.span_id:016x}-01"] * 2


def test_a_failure_is_the_spans_status_and_names_the_span(tasks, worker, exporter):
    @worker.task("solve")
    async def solve():
        raise ValueError("no convergence")

    worker.start()
    task = tasks.ended(tasks.submit("solve", trace_context=traced(), attempts=1))
    worker.stop()
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "ERROR"
    assert span.attributes["error.type"] == "ValueError"
    # The server records the exception, once.
    assert span.events == ()
    assert task.failure.trace_context.traceparent.split("-")[2] == f"{span.context.span_id:016x}"


def test_a_cancel_is_no_error_of_the_span(tasks, worker, exporter):
    @worker.task("stop")
    def stop():
        raise duite.Cancelled("had enough")

    worker.start()
    task = tasks.ended(tasks.submit("stop", trace_context=traced()))
    worker.stop()
    assert task.status == Status.STATUS_CANCELLED
    (span,) = exporter.get_finished_spans()
    assert span.status.status_code.name == "UNSET"


def test_a_process_is_told_of_the_trace(tasks, worker, exporter):
    worker.add("process", worker_program.process_id, run="process")
    worker.start()
    name = tasks.submit("process", trace_context=traced())
    assert TRACE in tasks.result(name)["traceparent"]


def test_without_opentelemetry_the_attempts_span_is_passed_on(tasks, worker, monkeypatch, exporter):
    monkeypatch.setattr("duite._spans._api", lambda: None)
    monkeypatch.setattr("duite._telemetry._trace", None)

    @worker.task("solve")
    def solve(task):
        return [_telemetry.current()[0], task.environment()["TRACEPARENT"]]

    worker.start()
    name = tasks.submit("solve", trace_context=traced())
    result = tasks.result(name)
    assert result == [tasks.get(name).attempts[0].trace_context.traceparent] * 2
    assert exporter.get_finished_spans() == ()
