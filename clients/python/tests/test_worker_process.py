"""Handlers in processes of their own."""

from __future__ import annotations

import os
import signal

import pytest
import worker_program
from conftest import wait_until
from working import Status, Tasks, is_alive, program

import duite
from duite import _process_pool


@pytest.fixture
def tasks(server, name):
    return Tasks(server.address, name[-60:])


@pytest.fixture
def worker(tasks):
    worker = duite.Worker(tasks.address, queues=[tasks.queue], concurrency=2, cancel_grace=1)
    for kind in ("process_id", "die", "spin", "obey", "obey_async", "write_and_contribute", "hold"):
        worker.add(kind, getattr(worker_program, kind), run="process")
    worker.add("raise", worker_program.raise_two, run="process")
    for function in (worker_program.die_with_a_child, worker_program.task_of_a_thread):
        worker.add(function.__name__, function, run="process")
    worker.start()
    yield worker
    worker.stop(drain=0)


def state_of(tasks, name):
    return tasks.state(name.rsplit("/", 1)[1])


def test_a_handler_runs_in_another_process_which_is_kept(tasks, worker):
    names = [tasks.submit("process_id") for _ in range(1)]
    first = tasks.result(names[0])
    assert first["pid"] != os.getpid()
    assert (first["parent"], first["task"]) == (os.getpid(), names[0])
    assert tasks.result(tasks.submit("process_id"))["pid"] == first["pid"]


def test_what_it_writes_and_contributes_is_there_when_the_task_has_ended(tasks, worker, name):
    count = name[-60:]
    names = [tasks.submit("write_and_contribute", count) for _ in range(3)]
    for name in names:
        task = tasks.ended(name)
        assert task.status == Status.STATUS_SUCCEEDED
        assert not task.flush_incomplete
        assert state_of(tasks, name)["step"] == 49
    assert tasks.state(count) == {"done": 3}


def test_its_failure_comes_with_its_causes(tasks, worker):
    failure = tasks.ended(tasks.submit("raise", attempts=1)).failure
    assert (failure.type, failure.location) == ("ValueError", "worker_program.py:raise_two")
    assert failure.cause.type == "KeyError"


def test_a_process_that_dies_is_a_failure_that_is_tried_again(tasks, worker):
    name = tasks.submit("die", attempts=2)
    assert tasks.result(name) == "alive"
    first = tasks.get(name).attempts[0].failure
    assert (first.type, first.retryable) == ("signal.9", True)


def test_a_process_that_dies_is_noticed_although_its_child_lives_on(tasks, worker):
    name = tasks.submit("die_with_a_child", attempts=1)
    try:
        task = tasks.ended(name, 15)
        assert (task.status, task.failure.type) == (Status.STATUS_FAILED, "signal.9")
    finally:
        child = state_of(tasks, name).get("child")
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_thread_of_the_handler_finds_the_same_task(tasks, worker):
    assert tasks.result(tasks.submit("task_of_a_thread")) is True


@pytest.mark.parametrize("kind", ["obey", "obey_async"])
def test_a_cancel_reaches_it(tasks, worker, kind):
    name = tasks.submit(kind)
    wait_until(lambda: "pid" in state_of(tasks, name))
    tasks.cancel(name)
    assert tasks.ended(name).status == Status.STATUS_CANCELLED
    # Nothing was killed for it.
    assert is_alive(state_of(tasks, name)["pid"])


def test_a_handler_that_does_not_stop_after_a_cancel_is_killed(tasks, worker):
    name = tasks.submit("spin")
    wait_until(lambda: "pid" in state_of(tasks, name))
    tasks.cancel(name)
    assert tasks.ended(name).status == Status.STATUS_CANCELLED
    assert not is_alive(state_of(tasks, name)["pid"])
    # There is room for others.
    assert tasks.result(tasks.submit("process_id"))


def test_a_handler_that_does_not_stop_after_its_lease_is_lost_is_killed(tasks, worker, monkeypatch):
    monkeypatch.setattr(_process_pool, "LOST_GRACE", 0.5)
    name = tasks.submit("spin", attempts=1)
    wait_until(lambda: "pid" in state_of(tasks, name))
    (attempt,) = worker._running.attempts.all()
    attempt.lose("a test says so")
    wait_until(lambda: not is_alive(state_of(tasks, name)["pid"]), what="the kill")
    wait_until(lambda: worker.attempts == 0)


def test_processes_die_with_a_worker_that_is_killed(tasks):
    with program(tasks) as killed:
        name = tasks.submit("spin", lease=2, attempts=1)
        wait_until(lambda: "pid" in state_of(tasks, name))
        pid = state_of(tasks, name)["pid"]
        assert is_alive(pid)
        killed.send_signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), what="the end of the process")


def test_a_handler_of_the_main_module_runs(tasks):
    with program(tasks):
        name = tasks.submit("process")
        assert tasks.result(name, 30)["task"] == name
