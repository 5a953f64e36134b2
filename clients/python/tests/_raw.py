"""A worker in a few lines, by the generated code alone: tests of the client need tasks that end."""

import json
import uuid

import grpc

from duite.v1 import common_pb2, worker_service_pb2_grpc
from duite.v1 import worker_service_pb2 as pb


class RawWorker:
    """Leases one task at a time from a queue and ends it as told."""

    def __init__(self, address: str, queue: str) -> None:
        channel = grpc.insecure_channel(address.removeprefix("http://"))
        self._stub = worker_service_pb2_grpc.WorkerServiceStub(channel)
        self._queue, self._uid = queue, str(uuid.uuid4())

    def lease(self) -> pb.Lease:
        """One task, which has to be there."""
        request = pb.LeaseTasksRequest(
            parent="namespaces/default",
            worker_id="raw",
            instance_uid=self._uid,
            queues=[self._queue],
            task_types=["work"],
            max_tasks=1,
        )
        request.wait.seconds = 10
        (lease,) = self._stub.LeaseTasks(request, timeout=15, wait_for_ready=True).leases
        return lease

    def succeed(self, output: object) -> None:
        """Leases a task and gives its output."""
        data = json.dumps(output).encode()
        payload = common_pb2.Payload(content_type="application/json", data=data)
        self._finish(output=payload)

    def fail(self, message: str) -> None:
        """Leases a task and fails it for good."""
        failure = common_pb2.Failure(type="ValueError", message=message, location="a.py:run")
        self._finish(failure=failure)

    def _finish(self, **outcome) -> None:
        outcome = pb.TaskOutcome(lease_token=self.lease().lease_token, **outcome)
        request = pb.FinishTasksRequest(outcomes=[outcome], request_id=str(uuid.uuid4()))
        answer = self._stub.FinishTasks(request, timeout=15)
        assert answer.results[0].HasField("task"), answer
