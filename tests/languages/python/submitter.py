"""Submits one task within a span: submitter.py HOST:PORT. Prints what it did as a JSON object."""

import json
import sys

import telemetry

provider = telemetry.start()

from opentelemetry import trace

from duite.v1 import task_service_pb2 as tasks
from duite_client import Client

with trace.get_tracer("submitter").start_as_current_span("submit") as span:
    policy = tasks.TaskPolicy(max_attempts=3)
    policy.retry_initial_delay.FromMilliseconds(100)
    task = Client(sys.argv[1]).submit("mesh", {"vertices": 12}, policy=policy)
    context = span.get_span_context()
provider.shutdown()
print(json.dumps({
    "task": task.name,
    "trace_id": f"{context.trace_id:032x}",
    "span_id": f"{context.span_id:016x}",
}))
