"""For tests of the worker: tasks by the stock stubs, and workers in processes of their own."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from typing import Any

import grpc
from conftest import wait_until

from duite.v1 import common_pb2 as common
from duite.v1 import state_service_pb2 as states
from duite.v1 import state_service_pb2_grpc, task_service_pb2_grpc
from duite.v1 import task_service_pb2 as tasks

TESTS = pathlib.Path(__file__).parent
Status = tasks.Task.Status


class Tasks:
    """Submits to a queue of its own, which is called like the test."""

    def __init__(self, address: str, queue: str) -> None:
        self.address, self.queue = address, queue
        channel = grpc.insecure_channel(address.removeprefix("http://"))
        self.stub = task_service_pb2_grpc.TaskServiceStub(channel)
        self.states = state_service_pb2_grpc.StateServiceStub(channel)

    def submit(
        self, type: str, value: Any = None, *, lease: float = 0, attempts: int = 0, **fields
    ):
        """Submits a task; gives its name. Retries come at once."""
        data = json.dumps(value).encode()
        task = tasks.Task(
            type=type,
            queue=self.queue,
            input=common.Payload(content_type="application/json", data=data),
            **fields,
        )
        task.policy.max_attempts = attempts
        task.policy.retry_initial_delay.FromMilliseconds(10)
        if lease:
            task.policy.lease_duration.FromMilliseconds(int(lease * 1000))
        request = tasks.CreateTaskRequest(
            parent="namespaces/default", task=task, request_id=str(uuid.uuid4())
        )
        return self.stub.CreateTask(request, timeout=20, wait_for_ready=True).task.name

    def get(self, name: str) -> tasks.Task:
        request = tasks.GetTaskRequest(name=name)
        return self.stub.GetTask(request, timeout=20, wait_for_ready=True).task

    def cancel(self, name: str, reason: str = "") -> None:
        self.stub.CancelTask(tasks.CancelTaskRequest(name=name, reason=reason), timeout=20)

    def ended(self, name: str, seconds: float = 20) -> tasks.Task:
        """The task, once it is terminal."""
        wait_until(
            lambda: self.get(name).status >= Status.STATUS_SUCCEEDED, seconds, f"the end of {name}"
        )
        return self.get(name)

    def result(self, name: str, seconds: float = 20) -> Any:
        """Its output."""
        task = self.ended(name, seconds)
        assert task.status == Status.STATUS_SUCCEEDED, task
        return json.loads(task.output.data)

    def running(self, name: str, attempt: int = 1) -> None:
        """Waits until it runs."""
        wait_until(
            lambda: (
                (task := self.get(name)).status == Status.STATUS_RUNNING and task.attempt == attempt
            ),
            what=f"attempt {attempt} of {name}",
        )

    def state(self, name: str) -> dict[str, Any]:
        """Its keys."""
        from duite._values import from_value

        full = name if "/" in name else f"namespaces/default/states/{name}"
        try:
            state = self.states.GetState(states.GetStateRequest(name=full), timeout=20).state
        except grpc.RpcError:
            return {}
        return {entry.key: from_value(entry.value) for entry in state.entries}


@contextmanager
def program(tasks: Tasks, *arguments: str):
    """A worker in a process of its own (worker_program.py), killed at the end."""
    environment = {
        **os.environ,
        "DUITE_ADDR": tasks.address,
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)]),
    }
    process = subprocess.Popen(
        [sys.executable, str(TESTS / "worker_program.py"), tasks.queue, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def is_alive(pid: int) -> bool:
    """Whether a process runs, and is no zombie."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
