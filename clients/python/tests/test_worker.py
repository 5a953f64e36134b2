"""The worker with handlers on threads: outcomes, state, cancel, retries, room, its end."""

from __future__ import annotations

import json
import multiprocessing
import signal
import threading
import time

import pytest
import worker_program
from conftest import wait_until
from working import Status, Tasks, program

import duite
from duite.errors import InvalidArgument
from duite.v1 import common_pb2 as common


@pytest.fixture
def tasks(server, name):
    return Tasks(server.address, name[-60:])


@pytest.fixture
def worker(tasks):
    worker = duite.Worker(tasks.address, queues=[tasks.queue], concurrency=4)
    yield worker
    worker.stop(drain=0)


def test_a_handler_gets_its_task_and_returns_an_output(tasks, worker):
    seen = []

    @worker.task("add")
    def add(task):
        seen.append((task.name, task.type, task.attempt, task.labels))
        return task.input["a"] + 1

    worker.start()
    name = tasks.submit("add", {"a": 1}, labels={"who": "me"})
    assert tasks.result(name) == 2
    assert seen == [(name, "add", 1, {"who": "me"})]
    assert duite.current_task() is None


def test_a_function_stays_callable_and_may_take_nothing(tasks, worker):
    @worker.task("where")
    def where():
        task = duite.current_task()
        return task.name if task else "nowhere"

    assert where() == "nowhere"
    worker.start()
    name = tasks.submit("where")
    assert tasks.result(name) == name


def test_bytes_blobs_and_nothing_are_outputs(tasks, worker):
    outputs = {
        "bytes": b"\x00\x01",
        "blob": duite.Blob(b"png", "image/png"),
        "nothing": None,
        "nan": {"loss": float("nan"), "steps": [1.5]},
    }
    worker.add("give", lambda task: outputs[task.input])
    worker.start()
    ended = {kind: tasks.ended(tasks.submit("give", kind)).output for kind in outputs}
    assert (ended["bytes"].content_type, ended["bytes"].data) == (
        "application/octet-stream",
        b"\x00\x01",
    )
    assert (ended["blob"].content_type, ended["blob"].data) == ("image/png", b"png")
    assert ended["nothing"].data == b""
    assert json.loads(ended["nan"].data) == {"loss": None, "steps": [1.5]}


def test_an_output_that_is_no_json_or_too_large_fails_for_good(tasks, worker):
    worker.add("give", lambda task: object() if task.input == "object" else b"x" * (1 << 20))
    worker.start()
    ended = [tasks.ended(tasks.submit("give", kind)) for kind in ("object", "large")]
    assert [task.failure.type for task in ended] == ["output.invalid", "output.too_large"]
    assert [task.attempt for task in ended] == [1, 1]


def test_an_output_that_cannot_be_read_is_a_failure_like_others(tasks, worker):
    class Broken:
        def tolist(self):
            raise RuntimeError("on another device")

    circle: list = []
    circle.append(circle)

    @worker.task("give")
    def give(task):
        task.state["step"] = 7
        return circle if task.input == "circle" else Broken()

    worker.start()
    for kind, failure, attempts in (("circle", "output.invalid", 1), ("broken", "RuntimeError", 2)):
        name = tasks.submit("give", kind, attempts=2)
        task = tasks.ended(name)
        assert (task.failure.type, task.attempt) == (failure, attempts)
        assert tasks.state(name.rsplit("/", 1)[1]) == {"step": 7}


def test_an_input_that_is_no_json_fails_for_good(tasks, worker):
    worker.add("read", lambda task: task.input)
    worker.start()
    name = tasks.submit("read")
    request = common.Payload(content_type="application/json", data=b"{")
    from duite.v1 import task_service_pb2 as pb

    task = pb.Task(type="read", queue=tasks.queue, input=request)
    name = tasks.stub.CreateTask(
        pb.CreateTaskRequest(parent="namespaces/default", task=task)
    ).task.name
    ended = tasks.ended(name)
    assert (ended.failure.type, ended.attempt) == ("input.invalid", 1)


def test_a_failure_is_tried_again_as_the_policy_says(tasks, worker):
    @worker.task("flaky")
    def flaky(task):
        if task.attempt < 3:
            raise OSError("disk is away")
        return task.attempt

    worker.start()
    assert tasks.result(tasks.submit("flaky", attempts=3)) == 3
    lost = tasks.ended(tasks.submit("flaky", attempts=2))
    assert (lost.status, lost.failure.type) == (Status.STATUS_FAILED, "OSError")
    assert lost.failure.location == "test_worker.py:flaky"


def test_a_permanent_error_is_not_tried_again(tasks, worker):
    @worker.task("bad")
    def bad(task):
        raise duite.PermanentError("no mesh", type="mesh.missing", details={"file": "a.stl"})

    worker.start()
    task = tasks.ended(tasks.submit("bad", attempts=3))
    assert (task.attempt, task.failure.type) == (1, "mesh.missing")
    assert json.loads(task.failure.details.data) == {"file": "a.stl"}


def test_retry_later_says_when(tasks, worker):
    times = []

    @worker.task("later")
    def later(task):
        times.append(time.monotonic())
        if task.attempt == 1:
            raise duite.RetryLater(delay=0.5)

    worker.start()
    tasks.ended(tasks.submit("later", attempts=2))
    assert 0.5 <= times[1] - times[0] < 5


def test_no_more_handlers_run_at_once_than_there_is_room_for(tasks):
    lock, running, most = threading.Lock(), [0], [0]
    three = threading.Barrier(3, timeout=20)

    def work(task):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        three.wait()
        with lock:
            running[0] -= 1

    worker = duite.Worker(tasks.address, queues=[tasks.queue], concurrency=3)
    worker.add("work", work)
    names = [tasks.submit("work") for _ in range(12)]
    with worker:
        for name in names:
            assert tasks.ended(name).status == Status.STATUS_SUCCEEDED
    # The barrier lets nobody pass unless there are three at once.
    assert most[0] == 3


def test_a_cancel_reaches_the_handler_and_ends_the_task_as_cancelled(tasks, worker):
    called = threading.Event()

    @worker.task("long")
    def long(task):
        task.on_cancel(called.set)
        assert task.wait_cancelled(30)
        assert task.cancel_reason == "enough"
        task.check_cancelled()

    worker.start()
    name = tasks.submit("long")
    tasks.running(name)
    tasks.cancel(name, "enough")
    task = tasks.ended(name)
    assert task.status == Status.STATUS_CANCELLED
    assert task.failure.category == common.Failure.CATEGORY_CANCELLED
    assert called.wait(5)


def test_a_handler_that_goes_on_after_a_cancel_succeeds(tasks, worker):
    @worker.task("stubborn")
    def stubborn(task):
        task.wait_cancelled(30)
        return "all the same"

    worker.start()
    name = tasks.submit("stubborn")
    tasks.running(name)
    tasks.cancel(name)
    assert tasks.result(name) == "all the same"


def test_a_lost_lease_stops_the_handler_and_its_result_is_dropped(tasks, worker, caplog):
    went_on, ended = threading.Event(), threading.Event()

    @worker.task("slow")
    def slow(task):
        assert task.wait_cancelled(30)
        went_on.wait(10)
        ended.set()
        return "late"

    worker.start()
    name = tasks.submit("slow", attempts=1)
    wait_until(lambda: worker.attempts == 1)
    # The attempt's time is over: the server fences the lease.
    from duite.v1 import worker_service_pb2 as work
    from duite.v1 import worker_service_pb2_grpc

    (attempt,) = worker._running.attempts.all()
    import grpc

    stub = worker_service_pb2_grpc.WorkerServiceStub(
        grpc.insecure_channel(tasks.address.removeprefix("http://"))
    )
    outcome = work.TaskOutcome(lease_token=attempt.token, cancelled=True)
    stub.FinishTasks(work.FinishTasksRequest(outcomes=[outcome]))
    wait_until(lambda: attempt.signals.lost, what="the loss")
    # Its place is taken until it returns.
    assert worker.attempts == 1
    went_on.set()
    wait_until(lambda: worker.attempts == 0)
    assert ended.is_set()
    assert tasks.ended(name).status == Status.STATUS_CANCELLED
    assert sum("lost the lease" in record.message for record in caplog.records) == 1


def test_what_was_written_is_there_when_the_task_has_ended(tasks, worker, name):
    worker.add("write", worker_program.write_and_contribute)
    worker.start()
    count = f"count-{time.time_ns()}"
    names = [tasks.submit("write", count) for _ in range(3)]
    for name in names:
        task = tasks.ended(name)
        assert task.status == Status.STATUS_SUCCEEDED
        assert not task.flush_incomplete
        assert tasks.state(name.rsplit("/", 1)[1])["step"] == 49
    assert tasks.state(count) == {"done": 3}


def test_a_state_queue_made_inside_a_handler_belongs_to_its_attempt(tasks, worker):
    @worker.task("write")
    def write():
        queue = duite.StateQueue()
        queue["own"] = "yes"

    worker.start()
    name = tasks.submit("write", state_name=f"namespaces/default/states/s-{time.time_ns()}")
    task = tasks.ended(name)
    assert not task.flush_incomplete
    assert tasks.state(task.state_name) == {"own": "yes"}


def test_a_contribution_of_a_failed_attempt_does_not_count(tasks, worker):
    count = f"count-{time.time_ns()}"

    @worker.task("count")
    def count_once(task):
        task.contribute(count, {"last": task.attempt}, add={"n": 1}, max={"most": 2.5})
        if task.attempt == 1:
            raise RuntimeError("after contributing")

    worker.start()
    assert tasks.ended(tasks.submit("count", attempts=2)).status == Status.STATUS_SUCCEEDED
    assert tasks.state(count) == {"last": 2, "n": 1, "most": 2.5}


def test_an_attempt_goes_on_from_what_the_one_before_has_left_in_its_state(tasks, worker):
    @worker.task("train")
    def train(task):
        before = task.get_state(["checkpoint", "nothing"])
        task.state.update({"checkpoint": {"epoch": task.attempt}, "other": 1})
        if task.attempt == 1:
            assert task.state.flush_wait(10)
            raise RuntimeError("once more")
        assert task.state.flush_wait(10)
        both = task.get_state()
        return [dict(before), dict(both), task.get_state("other")["other"]]

    @worker.task("new")
    def new(task):
        view = task.get_state()
        return [dict(view), view.get("checkpoint"), view.name == task.state_name]

    worker.start()
    trained = tasks.result(tasks.submit("train", attempts=2))
    left = {"checkpoint": {"epoch": 1}}
    assert trained == [left, {"checkpoint": {"epoch": 2}, "other": 1}, 1]
    assert tasks.result(tasks.submit("new")) == [{}, None, True]


def test_a_handler_is_steered_by_its_state(tasks, worker):
    zoomed = threading.Event()

    @worker.task("steer")
    def steer(task):
        task.on_change("zoom", lambda changes: (task.name, zoomed.set()))
        task.state["ready"] = True
        return zoomed.wait(20)

    worker.start()
    name = tasks.submit("steer")
    state = name.rsplit("/", 1)[1]
    wait_until(lambda: tasks.state(state).get("ready"))
    with duite.StateQueue(state=state, addr=tasks.address) as queue:
        queue["zoom"] = 3
    assert tasks.result(name) is True


def test_many_small_tasks_all_end(tasks, worker):
    worker.add("echo", lambda task: task.input)
    names = [tasks.submit("echo", number) for number in range(200)]
    worker.start()
    assert [tasks.result(name) for name in names] == list(range(200))


def test_a_stop_waits_for_what_runs_and_tells_it(tasks, worker):
    begun, go_on = threading.Event(), threading.Event()

    @worker.task("slow")
    def slow(task):
        begun.set()
        go_on.wait(20)
        return "done"

    worker.start()
    name = tasks.submit("slow")
    assert begun.wait(20)
    threading.Timer(0.3, go_on.set).start()
    worker.stop(drain=20)
    task = tasks.get(name)
    assert task.status == Status.STATUS_SUCCEEDED


def test_a_stop_tells_the_result_of_a_handler_that_has_just_ended(tasks, worker, monkeypatch):
    worker.add("quick", lambda: "done")
    worker.start()
    put = worker._running.finisher.put
    begun = threading.Event()

    def late(*given):
        begun.set()
        time.sleep(0.5)
        put(*given)

    monkeypatch.setattr(worker._running.finisher, "put", late)
    name = tasks.submit("quick", attempts=1)
    assert begun.wait(20)
    worker.stop(drain=10)
    assert tasks.get(name).status == Status.STATUS_SUCCEEDED


def test_a_task_that_cannot_begin_is_given_back(tasks, worker, monkeypatch):
    worker.add("quick", lambda task: task.attempt)
    worker.start()
    submit = worker._running.threads.submit
    refused = []

    def no_thread(job):
        if len(refused) < 5:
            refused.append(job)
            raise RuntimeError("can't start new thread")
        submit(job)

    monkeypatch.setattr(worker._running.threads, "submit", no_thread)
    # More than there is room for: those that could not begin must leave their places.
    name = tasks.submit("quick", attempts=1)
    assert tasks.result(name, 30) == 1
    assert len(refused) == 5
    assert worker.attempts == 0


def test_a_stop_gives_back_what_does_not_end_and_costs_no_attempt(tasks, worker):
    worker.add("wait", lambda task: task.wait_cancelled(60))
    worker.start()
    name = tasks.submit("wait", attempts=1)
    wait_until(lambda: worker.attempts == 1)
    worker.stop(drain=0)
    assert tasks.get(name).status in (Status.STATUS_QUEUED, Status.STATUS_SCHEDULED)
    other = duite.Worker(tasks.address, queues=[tasks.queue])
    other.add("wait", lambda task: task.attempt)
    with other:
        assert tasks.result(name) == 1


def test_sigterm_drains_a_worker_and_a_handler_may_end_meanwhile(tasks, tmp_path):
    file = tmp_path / "go-on"
    with program(tasks) as worker:
        name = tasks.submit("wait", str(file))
        wait_until((tmp_path / "go-on.begun").exists)
        worker.send_signal(signal.SIGTERM)
        file.touch()
        assert worker.wait(20) == 0
        assert "stopped" in worker.stdout.read()
    assert tasks.get(name).status == Status.STATUS_SUCCEEDED


def test_a_handler_may_fork_while_the_worker_asks_for_work(tasks, worker):
    @worker.task("fork")
    def fork(task):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    worker.start()
    for _ in range(3):
        assert tasks.result(tasks.submit("fork", attempts=1)) == [1, 2, 3]


def test_what_cannot_be_a_handler_is_refused(tasks):
    worker = duite.Worker(tasks.address)
    with pytest.raises(InvalidArgument, match="needs a handler"):
        worker.start()
    with pytest.raises(InvalidArgument, match="should take the task, or nothing"):
        worker.add("two", lambda a, b: None)
    with pytest.raises(InvalidArgument, match="not a way to run"):
        worker.add("odd", lambda: None, run="fiber")
    with pytest.raises(InvalidArgument, match="concurrency is 0"):
        duite.Worker(concurrency=0)
    worker.add("local", lambda: None, run="process")
    with pytest.raises(InvalidArgument, match="has to import it"):
        worker.start()


def test_a_program_finds_its_task_in_the_environment(tasks, worker, monkeypatch):
    found = {}

    @worker.task("outer")
    def outer(task):
        found.update(task.environment())
        return task.wait_cancelled(20)

    worker.start()
    name = tasks.submit("outer", {"x": 1}, labels={"a": "b"})
    wait_until(lambda: "DUITE_TASK" in found)
    for key, text in found.items():
        monkeypatch.setenv(key, text)
    task = duite.current_task()
    assert (task.name, task.type, task.input, task.labels) == (name, "outer", {"x": 1}, {"a": "b"})
    task.state["from"] = "outside"
    assert task.state.flush_wait(10)
    assert tasks.state(name.rsplit("/", 1)[1]) == {"from": "outside"}
    tasks.cancel(name)
    assert tasks.result(name) is True
