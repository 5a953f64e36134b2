"""A client of duite: stock generated code, gRPC and the OpenTelemetry API.

With the gRPC client instrumentation on, each call carries its span's context, so a task belongs
to the trace that it was submitted in.
"""

import json
import os
import platform
import traceback
import uuid

import grpc
from opentelemetry import propagate

from duite.v1 import common_pb2 as common
from duite.v1 import error_service_pb2 as errors
from duite.v1 import error_service_pb2_grpc, task_service_pb2_grpc, worker_service_pb2_grpc
from duite.v1 import task_service_pb2 as tasks

RUNTIME = "python/" + ".".join(platform.python_version_tuple()[:2])
STACK_LIMIT = 64 << 10
REPORTS_PER_CALL = 100


class Client:
    """One connection to one namespace."""

    def __init__(self, address, parent="namespaces/default"):
        self.parent = parent
        channel = grpc.insecure_channel(address)
        self.tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self.workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self.errors = error_service_pb2_grpc.ErrorServiceStub(channel)

    def submit(self, task_type, value, **fields):
        """Submits a task with a JSON input."""
        payload = common.Payload(content_type="application/json", data=json.dumps(value).encode())
        task = tasks.Task(type=task_type, input=payload, **fields)
        request = tasks.CreateTaskRequest(
            parent=self.parent, task=task, request_id=str(uuid.uuid4())
        )
        return self.tasks.CreateTask(request, wait_for_ready=True).task

    def report(self, task_type, failures):
        """Reports failures of code that runs outside of tasks."""
        reports = [
            errors.FailureReport(report_id=str(uuid.uuid4()), task_type=task_type, failure=failure)
            for failure in failures
        ]
        for first in range(0, len(reports), REPORTS_PER_CALL):
            some = reports[first : first + REPORTS_PER_CALL]
            request = errors.ReportFailuresRequest(parent=self.parent, reports=some)
            # An answer may be lost: each report counts once, however often it is sent.
            for _ in range(2):
                self.errors.ReportFailures(request, wait_for_ready=True)


def failure_of(error, retryable=False, depth=0):
    """What the API keeps of an exception, with the span it was raised in and up to 8 causes."""
    frames = traceback.extract_tb(error.__traceback__)
    failure = common.Failure(
        category=common.Failure.CATEGORY_APPLICATION,
        type=type(error).__name__,
        message=str(error),
        stack_trace="".join(traceback.format_exception(error, chain=False))[-STACK_LIMIT:],
        runtime=RUNTIME,
        retryable=retryable,
    )
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    if own:
        failure.location = f"{os.path.basename(own[-1].filename)}:{own[-1].name}"
    carrier = {}
    propagate.inject(carrier)
    if carrier and depth == 0:
        failure.trace_context.traceparent = carrier["traceparent"]
        failure.trace_context.tracestate = carrier.get("tracestate", "")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth < 8:
        failure.cause.CopyFrom(failure_of(cause, depth=depth + 1))
    return failure
