"""How outcomes are told."""

from __future__ import annotations

import threading

import grpc
import pytest
from conftest import wait_until
from working import Status, Tasks

import duite
from duite._attempts import Attempt
from duite._finish import Finisher
from duite._outage import Outage
from duite._run import handler_of
from duite.v1 import task_service_pb2 as tasks_pb
from duite.v1 import worker_service_pb2 as work


class Away(grpc.RpcError):
    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "nobody there"

    def trailing_metadata(self):
        return ()


class Stub:
    """A server whose first answers are held back or lost."""

    def __init__(self, lost: int) -> None:
        self.lost, self.requests = lost, []
        self.go_on = threading.Event()
        self.FinishTasks = self

    def future(self, request, timeout):
        self.requests.append(request)
        return self

    def result(self):
        assert self.go_on.wait(20)
        if len(self.requests) <= self.lost:
            raise Away
        results = [work.OutcomeResult(task=tasks_pb.Task()) for _ in self.requests[-1].outcomes]
        return work.FinishTasksResponse(results=results)


def attempt(number: int) -> Attempt:
    token = number.to_bytes(2, "big")
    return Attempt(token, f"t{number}", 1e12, 2, handler_of(lambda: None, None))


def test_outcomes_that_wait_go_in_one_call():
    stub, told = Stub(lost=0), []
    finisher = Finisher(stub, Outage("here"), told.append)
    finisher.start()
    for number in range(20):
        finisher.put(attempt(number), work.TaskOutcome(cancelled=True))
        if number == 0:
            wait_until(lambda: stub.requests)
    stub.go_on.set()
    assert finisher.stop(10)
    assert [len(request.outcomes) for request in stub.requests] == [1, 19]
    assert len(told) == 20


def test_a_lost_answer_is_asked_for_again_with_the_same_tokens():
    stub, told = Stub(lost=2), []
    stub.go_on.set()
    finisher = Finisher(stub, Outage("here"), told.append)
    finisher.start()
    finisher.put(attempt(7), work.TaskOutcome(cancelled=True))
    assert finisher.stop(10)
    assert len(stub.requests) == 3
    assert len({request.SerializeToString() for request in stub.requests}) == 1
    assert len(told) == 1


@pytest.fixture
def tasks(server, name):
    return Tasks(server.address, name[-60:])


def test_a_result_that_the_server_refuses_fails_the_task_and_says_why(tasks):
    worker = duite.Worker(tasks.address, queues=[tasks.queue])

    @worker.task("count")
    def count(task):
        task.contribute("s", add={"k" * 300: 1} if task.input else {"k": 1})

    with worker:
        good, bad = tasks.submit("count", False), tasks.submit("count", True, attempts=3)
        task = tasks.ended(bad)
        assert tasks.ended(good).status == Status.STATUS_SUCCEEDED
    assert (task.status, task.failure.type) == (Status.STATUS_FAILED, "result.refused")
    assert "contributions" in task.failure.message
    assert task.attempt == 1
