"""The synchronous client against the real server."""

import datetime
import pickle
import threading
import time
import uuid

import pytest
from _raw import RawWorker

import duite
from duite import NewTask, TaskStatus, errors


@pytest.fixture
def client(server):
    with duite.Client(server.address) as it:
        yield it


@pytest.fixture
def worker(server, name):
    return RawWorker(server.address, name)


def test_a_task_is_submitted_and_read_back(client, name):
    handle = client.submit(
        "work",
        {"epochs": 3, "path": "é"},
        queue=name,
        state="run-1",
        labels={"who": "me"},
        priority=7,
        delay=3600,
        max_attempts=5,
        attempt_timeout=datetime.timedelta(minutes=1),
        fairness_key="tenant",
        concurrency_key="gpu",
    )
    task = handle.get()
    assert (task.name, task.id, task.state) == (handle.name, handle.id, "run-1")
    assert (task.type, task.queue, task.priority, task.labels) == ("work", name, 7, {"who": "me"})
    assert task.input == {"epochs": 3, "path": "é"}
    assert task.status is TaskStatus.SCHEDULED
    assert task.schedule_time > task.create_time
    assert task.proto.policy.attempt_timeout.seconds == 60
    assert task.proto.policy.max_attempts == 5
    assert (task.output, task.failure, task.attempts) == (None, None, [])


@pytest.mark.parametrize(
    "given",
    [None, {"a": [1, 2.5, None]}, "text", b"\x00bytes", duite.Blob(b"{}", "image/png")],
    ids=["nothing", "json", "text", "bytes", "blob"],
)
def test_an_input_comes_back_as_it_was(client, name, given):
    assert client.submit("work", given, queue=name).get().input == given


def test_what_python_has_beside_json_is_sent_as_json(client, name):
    numpy = pytest.importorskip("numpy")
    given = {"n": numpy.int64(3), "row": numpy.arange(2), "t": (1, 2)}
    assert client.submit("work", given, queue=name).get().input == {
        "n": 3,
        "row": [0, 1],
        "t": [1, 2],
    }


def test_submitting_again_answers_with_the_same_task(client, name):
    request_id = str(uuid.uuid4())
    first = client.submit("work", 1, queue=name, request_id=request_id)
    assert client.submit("work", 1, queue=name, request_id=request_id).name == first.name
    assert client.submit("work", 1, queue=name).name != first.name
    by_id = client.submit("work", 1, queue=name, task_id=name)
    assert client.submit("work", 1, queue=name, task_id=name).name == by_id.name
    with pytest.raises(errors.AlreadyExists) as other:
        client.submit("work", 2, queue=name, task_id=name)
    assert other.value.reason == "TASK_EXISTS"


def test_many_tasks_stand_or_fall_by_themselves(client, name):
    new = [NewTask("work", n, queue=name) for n in range(1100)]
    new[5].priority = 77
    tried = client.submit_many(new, return_exceptions=True)
    assert isinstance(tried[5], errors.InvalidArgument)
    assert len({one.name for one in tried if isinstance(one, duite.TaskHandle)}) == 1099
    with pytest.raises(errors.InvalidArgument, match="priority"):
        client.submit_many(new)
    new[5].priority = 0
    again = client.submit_many(new)
    assert [one.name for one in again[:5]] == [one.name for one in tried[:5]]
    # All pages, the newest first, and none twice.
    listed = [task.name for task in client.list(queues=name)]
    assert len(listed) == 1100
    assert set(listed) == {one.name for one in again}


def test_large_batches_are_cut_by_weight(client, name):
    handles = client.submit_many(NewTask("work", "x" * 900_000, queue=name) for _ in range(6))
    assert len(handles[5].get().input) == 900_000
    listed = next(iter(client.list(queues=name)))
    with pytest.raises(errors.FailedPrecondition, match="left out"):
        _ = listed.input


def test_tasks_are_found_by_labels_and_status(client, name):
    wanted = client.submit("work", queue=name, labels={"run": name, "part": "a"})
    client.submit("work", queue=name, labels={"run": name, "part": "b"})
    found = [task.name for task in client.list(labels={"run": name, "part": "a"})]
    assert found == [wanted.name]
    client.cancel(wanted.id)
    by_status = client.list(labels={"run": name}, status=["cancelled"])
    assert [task.name for task in by_status] == [wanted.name]
    assert len(list(client.list(labels={"run": name}, status=TaskStatus.QUEUED))) == 1


def test_a_result_is_waited_for(client, worker, name):
    handle = client.submit("work", queue=name)
    other = threading.Thread(target=worker.succeed, args=({"loss": 0.5},))
    other.start()
    assert handle.result(timeout=20) == {"loss": 0.5}
    other.join()
    task = handle.wait()
    assert (task.status, task.attempt, task.worker_id) == (TaskStatus.SUCCEEDED, 1, "raw")
    assert task.attempts[0].end_time is not None


def test_a_task_that_has_not_ended_has_no_result(client, name):
    handle = client.submit("work", queue=name)
    with pytest.raises(errors.FailedPrecondition, match="has not ended"):
        handle.get().result()


def test_a_large_result_comes_whole(client, worker, name):
    handle = client.submit("work", queue=name)
    worker.succeed("x" * 100_000)
    assert len(handle.result()) == 100_000


def test_a_failed_task_raises_what_went_wrong_and_can_be_retried(client, worker, name):
    handle = client.submit("work", {"n": 1}, queue=name)
    worker.fail("no such mesh")
    with pytest.raises(errors.TaskFailed, match="ValueError: no such mesh") as failed:
        handle.result(20)
    assert pickle.loads(pickle.dumps(failed.value)).failure.message == "no such mesh"
    repeated = client.retry(handle.name)
    assert repeated.get().retry_of == handle.name
    with pytest.raises(errors.AlreadyExists):
        client.retry(handle.name)
    worker.succeed("done")
    assert repeated.result(20) == "done"
    with pytest.raises(errors.FailedPrecondition):
        client.retry(repeated.name)
    group = next(group for group in client.errors() if group.last_task == handle.name)
    assert (group.failure_type, group.location) == ("ValueError", "a.py:run")


def test_all_that_match_are_retried(client, name):
    for n in range(3):
        client.submit("work", n, queue=name).cancel()
    assert len(client.retry(queues=name)) == 3
    assert client.retry(queues=name) == []


def test_an_empty_filter_is_not_taken_for_all(client, name):
    client.submit("later", queue=name, delay=600).cancel()
    for wrong in ({"names": []}, {"status": iter(())}, {"queues": ()}):
        for call in (client.retry, client.list, client.watch_tasks):
            with pytest.raises(errors.InvalidArgument, match=f"{next(iter(wrong))} is empty"):
                call(**wrong)
    assert len(list(client.list(queues=name))) == 1


def test_a_cancelled_task_says_so(client, name):
    handle = client.submit("work", queue=name)
    assert handle.cancel("not needed").status is TaskStatus.CANCELLED
    with pytest.raises(errors.TaskCancelled):
        handle.result()


def test_several_tasks_are_waited_for_together(client, worker, name):
    handles = [client.submit("work", queue=name) for _ in range(3)]
    handles[1].cancel()
    done = threading.Thread(target=lambda: [worker.succeed(n) for n in range(2)])
    done.start()
    tasks = client.wait(handles, timeout=20)
    done.join()
    assert [task.name for task in tasks] == [handle.name for handle in handles]
    assert all(task.is_terminal for task in tasks)
    assert client.wait([]) == []


def test_a_wait_ends_after_its_timeout(client, name):
    handle = client.submit("work", queue=name)
    started = time.monotonic()
    with pytest.raises(errors.Timeout, match=handle.id):
        handle.wait(0.2)
    assert time.monotonic() - started < 5
    with pytest.raises(TimeoutError):
        client.wait([handle.name], timeout=0)


def test_a_task_is_followed_until_its_end(client, worker, name):
    handle = client.submit("work", queue=name)
    watch = handle.watch()
    assert next(watch).status is TaskStatus.QUEUED
    worker.succeed(1)
    seen = [task.status for task in watch]
    assert seen[-1] is TaskStatus.SUCCEEDED


def test_wrong_input_is_told_with_a_reason(client, name):
    with pytest.raises(errors.NotFound) as missing:
        client.get("nobody")
    assert (missing.value.reason, missing.value.code) == ("TASK_NOT_FOUND", "NOT_FOUND")
    for missing_too in (lambda: client.wait("nobody"), lambda: list(client.watch_task("nobody"))):
        with pytest.raises(errors.NotFound):
            missing_too()
    with pytest.raises(errors.NotFound, match="cannot wait"):
        client.wait([client.submit("work", queue=name), "nobody"])
    wrong = [
        lambda: client.get("no name"),
        lambda: client.get("namespaces/default/states/s"),
        lambda: client.submit("no type"),
        lambda: client.submit("work", float("nan")),
        lambda: client.submit("work", {1j}),
        lambda: client.submit("work", labels={"a": 1}),
        lambda: client.submit("work", delay="soon"),
        lambda: client.submit("work", schedule_time=datetime.datetime(2030, 1, 1)),
        lambda: next(client.list(status="done")),
        lambda: client.update_state(name),
        lambda: client.update_state(name, {"": 1}),
        lambda: duite.Client("https://somewhere"),
        lambda: duite.Client(namespace="a/b"),
    ]
    for call in wrong:
        with pytest.raises(errors.InvalidArgument) as refused:
            call()
        assert refused.value.code == "INVALID_ARGUMENT"


def test_a_state_is_written_read_and_deleted(client, name):
    client.update_state(name, {"lr": 0.1, "tags": ["a"], "m": {"x": 1}})
    position = client.update_state(name, add={"n": 2}, max={"best": 0.9}, min={"worst": 0.1})
    client.update_state(name, add={"n": 3}, delete="tags")
    state = client.get_state(name, min_position=position)
    assert dict(state) == {"lr": 0.1, "m": {"x": 1}, "n": 5, "best": 0.9, "worst": 0.1}
    assert dict(client.get_state(name, ["n", "none"])) == {"n": 5}
    client.update_state(name, {"lr": 0.2}, expected_revision=state.revision)
    with pytest.raises(errors.RevisionMismatch):
        client.update_state(name, {"lr": 0.3}, expected_revision=state.revision)
    with pytest.raises(errors.InvalidArgument) as rejected:
        client.update_state(name, {"ok": 1}, add={"m": 1})
    assert list(rejected.value.metadata) == ["m"]
    assert client.get_state(name)["ok"] == 1
    assert name in list(client.states())
    client.delete_state(name)
    with pytest.raises(errors.NotFound) as gone:
        client.get_state(name)
    assert gone.value.reason == "STATE_NOT_FOUND"


def test_an_update_with_the_same_request_id_takes_effect_once(client, name):
    request_id = str(uuid.uuid4())
    for _ in range(2):
        client.update_state(name, add={"n": 1}, request_id=request_id)
    assert client.get_state(name)["n"] == 1


def test_the_current_span_goes_with_every_call(client, name):
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    tracer = sdk.TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("submit") as span:
        handle = client.submit("work", queue=name)
    trace_id = f"{span.get_span_context().trace_id:032x}"
    assert trace_id in handle.get().proto.trace_context.traceparent
    assert [task.name for task in client.list(trace_id=trace_id)] == [handle.name]
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_server_that_is_away_is_named_within_seconds():
    client = duite.Client("127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(errors.Unavailable, match=r"127\.0\.0\.1:1") as away:
        client.wait("task")
    assert away.value.code == "UNAVAILABLE"
    assert time.monotonic() - started < 8


def test_a_call_goes_on_over_a_restart(own_server, name):
    client = duite.Client(own_server.address)
    handle = client.submit("work", queue=name)
    own_server.kill()
    again = threading.Thread(target=own_server.start)
    again.start()
    assert handle.get().status is TaskStatus.QUEUED
    again.join()


def test_a_wait_goes_on_over_a_kill(own_server, name):
    client = duite.Client(own_server.address)
    handle = client.submit("work", queue=name)
    results = []
    waiting = threading.Thread(target=lambda: results.append(handle.result(60)))
    waiting.start()
    wait_for_watch(own_server, client)
    own_server.kill()
    own_server.start()
    RawWorker(own_server.address, name).succeed("over")
    waiting.join(60)
    assert results == ["over"]


def wait_for_watch(server, client):
    # The wait is a watch, and those of a client are known.
    server.wait_until(lambda: any(watch.position.token for watch in list(client._watches)))


def test_a_client_is_pickled_and_closed(client, server):
    copy = pickle.loads(pickle.dumps(client))
    assert copy.info().durability
    copy.close()
    with pytest.raises(errors.DuiteError, match="closed"):
        copy.info()
    # The connection is the process's, not the client's.
    assert client.info().store_epoch


def test_the_address_and_namespace_come_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("DUITE_ADDR", server.address)
    monkeypatch.setenv("DUITE_NAMESPACE", "other")
    client = duite.Client()
    assert client.submit("work").name.startswith("namespaces/other/tasks/")
