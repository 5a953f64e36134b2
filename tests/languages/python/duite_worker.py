"""A worker of duite: stock generated code, gRPC and the OpenTelemetry API.

The span of a handler is a child of its attempt's span, which is the server's.
"""

import contextlib
import json
import threading
import uuid

import grpc
from opentelemetry import propagate, trace

from duite.v1 import common_pb2 as common
from duite.v1 import worker_service_pb2 as work
from duite_client import failure_of

tracer = trace.get_tracer("duite")


class Worker:
    """Runs tasks of the types that `handlers` names, one after the other."""

    def __init__(self, client, handlers, queue="default", worker_id="python"):
        self.client, self.handlers, self.queue = client, handlers, queue
        self.who = {"worker_id": worker_id, "instance_uid": str(uuid.uuid4())}

    def run_some(self, most=1, wait=10):
        """Waits for tasks, runs and finishes them. Gives their leases."""
        request = work.LeaseTasksRequest(
            parent=self.client.parent, queues=[self.queue], max_tasks=most,
            task_types=list(self.handlers), **self.who
        )
        request.wait.FromSeconds(wait)
        leases = self.client.workers.LeaseTasks(request, timeout=wait + 10).leases
        if not leases:
            return []
        done = threading.Event()
        renewer = threading.Thread(target=self._renew, args=(leases, done), daemon=True)
        renewer.start()
        try:
            outcomes = [self._run(lease) for lease in leases]
        finally:
            done.set()
            renewer.join()
        finish = work.FinishTasksRequest(outcomes=outcomes)
        # An answer may be lost: the token that ended an attempt is answered again.
        for _ in range(2):
            for result in self.client.workers.FinishTasks(finish, timeout=30).results:
                if result.HasField("error"):
                    raise RuntimeError(f"an outcome was refused: {result.error.message}")
        return leases

    def _renew(self, leases, done):
        tokens = [lease.lease_token for lease in leases]
        pause = min(lease.renew_interval.ToTimedelta().total_seconds() for lease in leases)
        while True:
            request = work.RenewLeasesRequest(lease_tokens=tokens, **self.who)
            with contextlib.suppress(grpc.RpcError):  # the next one may get through
                self.client.workers.RenewLeases(request, timeout=pause)
            if done.wait(pause):
                return

    def _run(self, lease):
        carrier = {"traceparent": lease.trace_context.traceparent,
                   "tracestate": lease.trace_context.tracestate}
        # The server records the exception, once, with the attempt's span.
        with tracer.start_as_current_span(
            f"handle {lease.task.type}", context=propagate.extract(carrier), record_exception=False
        ) as span:
            outcome = work.TaskOutcome(lease_token=lease.lease_token)
            try:
                value = self.handlers[lease.task.type](lease.task, json.loads(lease.task.input.data))
                data = json.dumps(value).encode()
                outcome.output.CopyFrom(common.Payload(content_type="application/json", data=data))
            except Exception as error:
                span.set_status(trace.StatusCode.ERROR, str(error))
                outcome.failure.CopyFrom(failure_of(error, getattr(error, "retryable", True)))
            return outcome
