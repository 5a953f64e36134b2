"""StateQueue against the real server, and trame's surface."""

import gc
import logging
import os
import pickle
import queue as standard
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import grpc
import pytest
from conftest import wait_until

import duite
from duite import _last_words
from duite._values import from_value
from duite.errors import FailedPrecondition, InvalidArgument, ValueTooLarge
from duite.v1 import state_service_pb2 as pb
from duite.v1 import (
    state_service_pb2_grpc,
    task_service_pb2,
    task_service_pb2_grpc,
    worker_service_pb2,
    worker_service_pb2_grpc,
)

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def no_task(monkeypatch):
    for variable in ("DUITE_ADDR", "DUITE_TASK", "DUITE_STATE", "DUITE_LEASE", "DUITE_NAMESPACE"):
        monkeypatch.delenv(variable, raising=False)


def stub(server):
    channel = grpc.insecure_channel(server.address.removeprefix("http://"))
    return state_service_pb2_grpc.StateServiceStub(channel)


def entries(server, state):
    try:
        name = f"namespaces/default/states/{state}"
        found = stub(server).GetState(
            pb.GetStateRequest(name=name), timeout=10, wait_for_ready=True
        )
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            return {}
        raise
    return {entry.key: from_value(entry.value) for entry in found.state.entries}


@pytest.fixture
def state(server, name):
    """What the state of the test's name holds."""
    return lambda: entries(server, name)


@pytest.fixture
def make(server, name):
    made = []

    def make(**fields):
        made.append(duite.StateQueue(name, addr=server.address, **fields))
        return made[-1]

    yield make
    for each in made:
        each._close(0)


# trame's surface


def test_it_writes_dicts_and_the_exit_mark_into_a_queue_of_the_programs_own():
    given = standard.Queue()
    with duite.StateQueue(given) as q:
        q["a"] = 1
        q.b = 2
        q.update({"c": 3, "d": 4})
        assert q.queue is given
        with q:
            pass
        assert given.qsize() == 3
    assert [given.get_nowait() for _ in range(4)] == [{"a": 1}, {"b": 2}, {"c": 3, "d": 4}, "STOP"]


def test_without_auto_flush_nothing_goes_before_it_is_flushed():
    given = standard.Queue()
    q = duite.StateQueue(given, auto_flush=False)
    q.a = 1
    q.update({"a": 2, "b": 3})
    assert (q.a, q["b"], q.c) == (2, 3, None)
    assert given.empty()
    q.flush()
    q.flush()
    assert given.get_nowait() == {"a": 2, "b": 3}
    assert given.empty()
    assert q.a == 2
    q.exit()
    assert given.get_nowait() == "STOP"


def test_private_names_are_no_keys():
    q = duite.StateQueue(standard.Queue())
    q._mine = 1
    assert q._mine == 1
    assert q._other is None
    assert q.queue.empty()
    with pytest.raises(AttributeError):
        q.__nothing__  # noqa: B018


def test_a_queue_of_the_programs_own_takes_no_operations():
    with pytest.raises(FailedPrecondition, match="need a state"):
        duite.StateQueue(standard.Queue()).add(n=1)


# Where it writes to


def test_without_a_state_it_does_nothing_unless_told_otherwise(caplog):
    q = duite.StateQueue()
    with q:
        q.update({"a": 1})
        q.add("n", 2)
    assert (q.a, q.queue) == (1, None)
    assert q.flush_wait()
    assert q.on_change("a", print) is None
    assert not caplog.records
    with pytest.raises(FailedPrecondition, match="no state"):
        duite.StateQueue(quiet=False)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"DUITE_STATE": "namespaces/n/states/s"}, "namespaces/n/states/s"),
        ({"DUITE_STATE": "s"}, "namespaces/default/states/s"),
        ({"DUITE_TASK": "namespaces/n/tasks/t"}, "namespaces/n/states/t"),
    ],
)
def test_a_program_that_a_worker_runs_writes_to_the_tasks_state(monkeypatch, variables, wanted):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("DUITE_LEASE", "00ff")
    q = duite.StateQueue(addr=NOWHERE)
    assert q.queue == wanted
    assert q._pusher.lease == b"\x00\xff"
    # A state that is named is written without the lease.
    assert duite.StateQueue("other", addr=NOWHERE)._pusher.lease == b""


def test_a_spoiled_lease_or_name_is_told_of_at_once(monkeypatch):
    monkeypatch.setenv("DUITE_STATE", "s")
    monkeypatch.setenv("DUITE_LEASE", "zz")
    with pytest.raises(InvalidArgument, match="DUITE_LEASE"):
        duite.StateQueue(addr=NOWHERE)
    with pytest.raises(InvalidArgument, match="id of a state"):
        duite.StateQueue("a b", addr=NOWHERE)
    with pytest.raises(InvalidArgument, match="two states"):
        duite.StateQueue("a", state="b", addr=NOWHERE)


# Writing


def test_what_is_written_arrives(make, state):
    q = make()
    q.a = 1
    q.update({"b": [1, 2.5, "x", None], "c": {"k": b"v"}})
    assert (q.a, q["b"]) == (1, [1, 2.5, "x", None])
    assert q.flush_wait(10)
    assert state() == {"a": 1, "b": [1, 2.5, "x", None], "c": {"k": b"v"}}
    assert q.queue.endswith(q.queue.rsplit("/", 1)[1])


def test_operations_are_the_servers_and_mix_with_values(make, state):
    one, two = make(), make()
    for q in (one, two):
        for n in range(10):
            q.add("n", 1)
            q.add(seconds=0.5)
            q.max(best=n)
            q.min("least", -n)
    for q in (one, two):
        assert q.flush_wait(10)
    assert state() == {"n": 20, "seconds": 10.0, "best": 9, "least": -9}
    one.n = 5
    one.add(n=2)
    assert one.n == 7
    one.delete("best", "least")
    assert one.flush_wait(10)
    assert state() == {"n": 7, "seconds": 10.0}
    for wrong in (lambda: one.add("n"), lambda: one.add(n="x"), lambda: one.max(n=float("nan"))):
        with pytest.raises(InvalidArgument):
            wrong()


def test_values_are_taken_as_they_are_at_the_call(make, state):
    q = make(auto_flush=False)
    points = [1]
    q.points = points
    points.append(2)
    q.flush()
    assert q.flush_wait(10)
    assert state() == {"points": [1]}


def test_nothing_is_written_of_an_update_that_cannot_be_sent(make, state):
    q = make()
    q.ok = 1
    for wrong, error in [
        ({"a": 1, "b": object()}, InvalidArgument), ({"a": 1, "": 2}, InvalidArgument),
        ({"a": 1, "b": b"x" * (1 << 20)}, ValueTooLarge),
        ({"a": 1, "b": "x" * (1 << 20)}, ValueTooLarge),
    ]:  # fmt: skip
        with pytest.raises(error):
            q.update(wrong)
    assert q.a is None
    assert q.flush_wait(10)
    assert state() == {"ok": 1}


def test_the_largest_value_is_taken(make, state):
    q = make()
    q.blob = b"x" * (1_047_552 - 8)
    assert q.flush_wait(10)
    assert len(state()["blob"]) == 1_047_552 - 8


def test_large_values_and_small_ones_of_one_key_keep_their_order(make, state):
    q = make()
    for n in range(200):
        q.update({"n": n, "big": b"x" * 100_000 if n % 3 else n, f"k{n % 5}": n})
    assert q.flush_wait(20)
    found = state()
    assert (found["n"], found["big"]) == (199, b"x" * 100_000)
    assert [found[f"k{n}"] for n in range(5)] == [195, 196, 197, 198, 199]
    assert q._pusher.large.streams == 1


def test_a_large_value_without_end_does_not_keep_small_ones_back(make):
    q = make()
    q.step = 0
    assert q.flush_wait(10)
    q.big = b"x" * 1_000_000
    q.step = 1
    # The small lane has nothing to wait for.
    small = q._pusher.small.core
    assert q._pusher.wait(lambda: small.is_settled, 10)


def test_many_small_keys_in_one_flush_are_cut_and_all_arrive(make, state):
    q = make()
    q.update({f"{n:05d}" + "k" * 200: n for n in range(6000)})
    assert q.flush_wait(20)
    assert sorted(state().values()) == list(range(6000))


def test_rejected_keys_are_told_of_once_and_readable(make, state, caplog):
    q = make()
    q.text = "x"
    q.add(text=1)
    q.flush_wait(10)
    q._pushed_state.clear()
    q.add(text=1)
    q.ok = 1
    assert q.flush_wait(10)
    assert list(q.rejected) == ["text"]
    assert state() == {"text": "x", "ok": 1}
    told = [record for record in caplog.records if "was not accepted" in record.getMessage()]
    assert len(told) == 1
    assert q.rejected["text"] in told[0].getMessage()


def test_without_folding_every_flush_is_a_batch(make, state):
    q = make(fold=False)
    for n in range(5000):
        q.n = n
    assert q.flush_wait(20)
    stats = q.stats
    assert (stats["acked_batches"], stats["folded"]) == (5000, 0)
    assert state() == {"n": 4999}


def test_several_threads_write_through_one_queue(make, state):
    q = make()

    def work(me):
        for n in range(500):
            q.add(total=1)
            q[f"t{me}"] = n

    threads = [threading.Thread(target=work, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert q.flush_wait(20)
    assert state() == {"total": 2000, **{f"t{me}": 499 for me in range(4)}}


# The end


def test_exit_ends_the_writer_and_a_later_update_begins_another(make, state):
    q = make()
    with q:
        q.a = 1
    assert q.flush_wait(10)
    writer = q._pusher.small.core.writer
    q.b = 2
    assert q.flush_wait(10)
    assert q._pusher.small.core.writer != writer
    assert state() == {"a": 1, "b": 2}


def test_marks_name_the_writers_and_close_waits_for_them(make, state):
    q = make()
    assert q._marks() == []
    q.a = 1
    q.big = b"x" * 100_000
    q.update({"a": 2})
    marks = q._marks()
    assert len(marks) == 2
    assert all(mark[0] == q.queue and mark[2] >= 1 for mark in marks)
    assert q._close(10)
    q.a = 3
    assert not q.flush_wait(1) or state()["a"] == 2
    assert q.stats["refused"] == 1


def test_a_queue_that_nobody_holds_sends_what_it_has_and_its_threads_end(server, name):
    q = duite.StateQueue(name, addr=server.address)
    q.a = 1
    del q
    wait_until(lambda: entries(server, name) == {"a": 1})
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.endswith(name[-40:])])


def test_a_closed_queue_is_not_held_by_what_it_calls(make):
    class Task:
        def __init__(self):
            self.queue = make(on_directive=self.heard)

        def heard(self, kind):
            pass

    task = Task()
    task.queue.a = 1
    assert task.queue._close(10)
    gone = weakref.ref(task)
    task.queue._close(0)
    del task
    wait_until(lambda: gc.collect() >= 0 and gone() is None, what="its end")


def test_pairs_are_taken_as_a_dict_would(make, state):
    q = make()
    q.update([("a", 1), ("b", 2)])
    assert q.flush_wait(10)
    assert state() == {"a": 1, "b": 2} == {"a": q.a, "b": q.b}


def run(program, server, **variables):
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60, text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path, "DUITE_ADDR": server.address, **variables},
    )  # fmt: skip


def test_the_last_updates_of_a_script_arrive(server, name, state):
    run(f"import duite; duite.StateQueue({name!r}).last = 1", server)
    assert state() == {"last": 1}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_last_updates_of_a_process_of_multiprocessing_arrive(
    server, name, state, method, tmp_path
):
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(f"""
        import multiprocessing, duite
        from concurrent.futures import ProcessPoolExecutor
        def work(q, n):
            q[f"k{{n}}"] = n
        if __name__ == "__main__":
            q = duite.StateQueue({name!r})
            q.parent = 1
            context = multiprocessing.get_context({method!r})
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                list(pool.map(work, [q] * 4, range(4)))
            process = context.Process(target=work, args=(q, 9))
            process.start()
            process.join()
        """)
    )
    run(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')", server) if (
        method == "fork"
    ) else subprocess.run(
        [sys.executable, str(program)], check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DUITE_ADDR": server.address},
    )  # fmt: skip
    assert state() == {"parent": 1, "k9": 9, **{f"k{n}": n for n in range(4)}}


def test_a_script_ends_in_bounded_time_where_the_server_is_away():
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", f"import duite; duite.StateQueue('s', addr={NOWHERE!r}).a = 1"],
        check=True, timeout=30, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert 4 < time.monotonic() - began < 15


def test_a_pickled_copy_is_a_writer_of_its_own(make, state):
    q = make(auto_flush=False)
    q.a = 1
    copy = pickle.loads(pickle.dumps(q))
    assert (copy.queue, copy._auto_flush, copy.a) == (q.queue, False, None)
    copy.b = 2
    assert copy.flush_wait(10)
    assert q.flush_wait(10)
    assert state() == {"a": 1, "b": 2}
    copy._close(0)


# Breaks


def test_a_caller_never_waits_for_a_server_that_is_away():
    q = duite.StateQueue("s", addr=NOWHERE)
    slowest = 0.0
    for n in range(20_000):
        began = time.perf_counter()
        q.update({"n": n, "big": b"x" * 1000})
        slowest = max(slowest, time.perf_counter() - began)
    assert slowest < 1
    assert not q.flush_wait(0.01)
    core = q._pusher.small.core
    assert len(core.segments) <= 17
    q._close(0)


def test_everything_arrives_once_though_the_server_is_killed_again_and_again(own_server):
    q = duite.StateQueue("s", addr=own_server.address)
    total = 0
    for _ in range(3):
        for n in range(200):
            q.add(total=1)
            q.update({"n": n})
            total += 1
        own_server.kill()
        for n in range(200):
            q.add(total=1)
            q.update({"n": n})
            total += 1
        own_server.start()
    assert q.flush_wait(30)
    assert entries(own_server, "s") == {"total": total, "n": 199}
    assert q.stats["writer_restarts"] == 0
    q._close(0)


def test_a_server_that_stops_in_order_is_followed_to_the_next(own_server, caplog):
    q = duite.StateQueue("s", addr=own_server.address)
    q.a = 1
    assert q.flush_wait(10)
    own_server.stop()
    q.a = 2
    own_server.start()
    assert q.flush_wait(20)
    assert entries(own_server, "s") == {"a": 2}
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    q._close(0)


def test_a_server_that_has_forgotten_the_writer_gets_a_new_one_and_it_is_told_of(
    own_server, caplog
):
    q = duite.StateQueue("s", addr=own_server.address)
    q.a = 1
    assert q.flush_wait(10)
    own_server.kill()
    # The history is another.
    subprocess.run(["rm", "-rf", str(own_server._folder / "data")], check=True)
    q.b = 2
    own_server.start()
    assert q.flush_wait(20)
    assert entries(own_server, "s")["b"] == 2
    assert q.stats["writer_restarts"] == 1
    assert any("has forgotten a writer" in record.getMessage() for record in caplog.records)
    q._close(0)


def test_what_no_retry_can_mend_ends_the_queue_and_is_told_of(server, caplog):
    q = duite.StateQueue("s", addr=server.address, lease=b"no token")
    q.a = 1
    wait_until(lambda: q._pusher.over, what="the end")
    assert not q.flush_wait(5)
    q.a = 2
    told = [r for r in caplog.records if "no longer written" in r.getMessage()]
    assert len(told) == 1
    assert q.stats["refused"] == 1


# Under a lease


@pytest.fixture
def lease(server, name):
    """A task that is leased: its lease, and what ends or cancels it."""
    channel = grpc.insecure_channel(server.address.removeprefix("http://"))
    tasks = task_service_pb2_grpc.TaskServiceStub(channel)
    workers = worker_service_pb2_grpc.WorkerServiceStub(channel)
    parent = "namespaces/default"
    queue = f"q{time.time_ns()}"
    request = task_service_pb2.CreateTaskRequest(parent=parent)
    request.task.type, request.task.queue = "t", f"{parent}/queues/{queue}"
    try:
        tasks.CreateTask(request)
    except grpc.RpcError:
        request.task.queue = queue
        tasks.CreateTask(request)
    wanted = worker_service_pb2.LeaseTasksRequest(
        parent=parent, queues=[queue], max_tasks=1, task_types=["t"], worker_id="w",
        instance_uid="6f0c8a52-2c2e-4a55-9c5c-1a2b3c4d5e6f",
    )  # fmt: skip
    wanted.wait.FromSeconds(5)
    (found,) = workers.LeaseTasks(wanted).leases
    return found, tasks, workers


def test_directives_of_the_server_are_passed_on(server, name, lease):
    found, tasks, workers = lease
    heard = []
    q = duite.StateQueue(
        name, addr=server.address, lease=found.lease_token, on_directive=heard.append
    )
    q.a = 1
    assert q.flush_wait(10)
    tasks.CancelTask(task_service_pb2.CancelTaskRequest(name=found.task.name))
    wait_until(lambda: heard == ["cancel"], what="the directive")
    outcome = worker_service_pb2.TaskOutcome(lease_token=found.lease_token)
    outcome.cancelled = True
    for state_name, writer_id, sequence in q._marks():
        outcome.flushed.add(state_name=state_name, writer_id=writer_id, sequence=sequence)
    workers.FinishTasks(worker_service_pb2.FinishTasksRequest(outcomes=[outcome]))
    wait_until(lambda: q.update({"a": 2}) or heard == ["cancel", "lost"], what="the end")
    assert not q.flush_wait(1)
    assert isinstance(q._pusher.last_error, duite.DuiteError)


def test_the_only_update_of_a_script_arrives_though_the_script_ends_at_once(server, name):
    # Since Python 3.12 a stream that is not open by then cannot be opened any more.
    for number in range(8):
        script = f"import duite; duite.StateQueue(state={name!r}).add(n=1, n{number}=1)"
        environment = {**os.environ, "DUITE_ADDR": server.address}
        subprocess.run([sys.executable, "-c", script], env=environment, timeout=30, check=True)
    values = duite.Client(server.address).get_state(name)
    assert dict(values) == {"n": 8, **{f"n{number}": 1 for number in range(8)}}


def test_what_a_process_cannot_send_any_more_is_sent_by_another_and_counts_once(server, name):
    with duite.StateQueue(state=name, addr=server.address, fold=False) as q:
        for _ in range(500):
            q.add(n=1)
        # Some of it may have arrived: the other process goes on where the server stands.
        left = q._pusher.unsent()
        q._pusher.end(None)
        assert _last_words.send(left, 10)
    assert duite.Client(server.address).get_state(name)["n"] == 500


def test_a_queue_that_the_collector_takes_while_its_lock_is_held_blocks_nobody(server, name):
    q = duite.StateQueue(state=name, addr=server.address)
    q.update({"a": 1})
    q.itself = None
    q._cycle = q
    pusher = q._pusher
    with pusher.lock:
        del q
        gc.collect()
        assert pusher.abandoned
    assert pusher.wait(lambda: pusher.is_settled, 10)


NO_THREADS = """
import threading
def refused(thread):
    raise RuntimeError({why!r})
begin, threading.Thread.start = threading.Thread.start, refused
import duite
q = duite.StateQueue(state={name!r})
q.add(n=1)
"""


def run_script(server, script):
    environment = {**os.environ, "DUITE_ADDR": server.address}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environment, timeout=30, check=True, capture_output=True, text=True
    )


def test_an_update_that_no_thread_can_be_begun_for_any_more_is_sent_by_another_process(
    server, name
):
    why = "can't create new thread at interpreter shutdown"
    run_script(server, NO_THREADS.format(why=why, name=name))
    assert duite.Client(server.address).get_state(name)["n"] == 1


def test_a_thread_that_could_not_begin_is_tried_again_with_the_next_flush(server, name):
    script = NO_THREADS.format(why="can't start new thread", name=name)
    script += "threading.Thread.start = begin\nq.add(n=1)\nassert q.flush_wait(10)\n"
    said = run_script(server, script).stderr
    assert duite.Client(server.address).get_state(name)["n"] == 2
    assert said.count("can't start new thread") == 1
