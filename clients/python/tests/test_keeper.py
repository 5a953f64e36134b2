"""Leases are kept whatever handlers do, and lost with the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import time

import pytest
import worker_program
from conftest import wait_until
from working import Status, Tasks, is_alive, program

import duite
from duite._keeper import Teller, worse
from duite._keeper_client import KeeperClient


@pytest.fixture
def tasks(server, name):
    return Tasks(server.address, name[-60:])


@pytest.fixture
def worker(tasks):
    worker = duite.Worker(tasks.address, queues=[tasks.queue], concurrency=4)
    yield worker
    worker.stop(drain=0)


SECONDS = 60 if os.environ.get("DUITE_SLOW") else 12


def test_a_handler_that_holds_the_interpreter_in_one_call_keeps_its_lease(tasks):
    with program(tasks) as worker:
        name = tasks.submit("hold", SECONDS, lease=5)
        began = time.monotonic()
        assert tasks.result(name, SECONDS + 30) == 1
        assert time.monotonic() - began >= SECONDS
        assert tasks.get(name).attempt == 1
        # Nothing was lost in the worker's eyes either.
        worker.send_signal(signal.SIGTERM)
        assert "lost" not in worker.communicate(timeout=20)[1]


def test_a_keeper_that_is_killed_is_started_again_and_the_lease_is_kept(
    tasks, worker, tmp_path, caplog
):
    worker.add("wait", worker_program.wait_for_file)
    worker.start()
    file = tmp_path / "go-on"
    name = tasks.submit("wait", str(file), lease=3)
    wait_until(lambda: worker.attempts == 1)
    keeper = worker._running.keeper
    killed = [keeper.pid]
    for _ in range(2):
        os.kill(killed[-1], signal.SIGKILL)
        wait_until(lambda: keeper.pid not in (None, *killed), what="another keeper")
        killed.append(keeper.pid)
    (attempt,) = worker._running.attempts.all()
    until = attempt.until + 3
    wait_until(lambda: attempt.until > until, what="renewals by the other keeper")
    file.touch()
    assert tasks.result(name) == 1
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == [
        "the process that renews leases was ended by signal 9, starting another"
    ]


def test_a_keeper_that_hangs_is_replaced(tasks, worker, tmp_path):
    file = tmp_path / "go-on"
    worker.add("wait", worker_program.wait_for_file)
    worker.start()
    name = tasks.submit("wait", str(file), lease=2, attempts=9)
    tasks.running(name)
    hung = worker._running.keeper.pid
    os.kill(hung, signal.SIGSTOP)
    try:
        wait_until(lambda: worker._running.keeper.pid not in (hung, None), what="another keeper")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(hung, signal.SIGKILL)
    # What it leases from here on is kept for longer than the lease lasts.
    kept = tmp_path / "kept"
    name = tasks.submit("wait", str(kept), lease=2, attempts=1)
    tasks.running(name)
    time.sleep(4)
    kept.touch()
    file.touch()
    assert tasks.result(name) == 1


def test_a_stop_while_a_keeper_is_started_leaves_no_process(tasks):
    client = KeeperClient(
        {"target": "", "parent": "", "worker_id": "w", "instance_uid": ""}, lambda news: None
    )
    client._stopping.set()
    assert "code 0" in client._run_process()


def test_a_keeper_that_cannot_run_is_replaced_by_a_thread(tasks, worker, tmp_path, monkeypatch):
    monkeypatch.setattr("duite._keeper_client._BOOT", "raise SystemExit(3)")
    worker.add("wait", worker_program.wait_for_file)
    worker.start()
    file = tmp_path / "go-on"
    name = tasks.submit("wait", str(file), lease=2)
    wait_until(lambda: worker.attempts == 1)
    (attempt,) = worker._running.attempts.all()
    until = attempt.until + 3
    wait_until(lambda: attempt.until > until, what="renewals by a thread")
    assert worker._running.keeper.pid is None
    file.touch()
    assert tasks.result(name) == 1


def test_the_leases_of_a_killed_worker_run_out_and_its_task_runs_elsewhere(tasks, worker, tmp_path):
    file = tmp_path / "go-on"
    with program(tasks) as killed:
        name = tasks.submit("wait", str(file), lease=2)
        tasks.running(name)
        # Longer than a lease lasts that was not accepted, whose end would cost no attempt.
        time.sleep(1.5)
        children = children_of(killed.pid)
        killed.send_signal(signal.SIGKILL)
        killed.wait(10)
        worker.add("wait", worker_program.wait_for_file)
        worker.start()
        tasks.running(name, attempt=2)
        wait_until(lambda: not any(map(is_alive, children)), what="the end of the keeper")
    assert children
    file.touch()
    assert tasks.result(name) == 2


def test_a_keeper_does_not_outlive_its_worker_because_of_a_fork(tasks, worker, tmp_path):
    # A child made by fork holds copies of the worker's pipes.
    worker.add("wait", worker_program.wait_for_file)
    worker.start()
    worker._running.keeper.wait_ready()
    keeper = worker._running.keeper._process
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        worker.stop()
        # By itself: one that does not end is killed.
        assert keeper.wait(10) == 0
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_keeper_ignores_the_terminals_signals(tasks, worker, tmp_path):
    worker.add("wait", worker_program.wait_for_file)
    worker.start()
    keeper = worker._running.keeper
    keeper.wait_ready()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(keeper.pid, number)
    name = tasks.submit("wait", str(tmp_path), lease=2)
    assert tasks.result(name) == 1
    assert is_alive(keeper.pid)


def test_a_stopped_worker_leaves_no_process(tasks, worker):
    worker.add("process", worker_program.process_id, run="process")
    worker.start()
    pid = tasks.result(tasks.submit("process"))["pid"]
    keeper = worker._running.keeper.pid
    worker.stop()
    assert not is_alive(pid)
    assert not is_alive(keeper)
    assert tasks.get(tasks.submit("process")).status == Status.STATUS_QUEUED


def test_news_that_waits_is_folded_to_the_worst():
    written = []
    teller = Teller(written.append)
    teller.tell({"leases": {"a": ["held", 5, ""]}, "server": ["failed", 1, "UNAVAILABLE"]})
    teller.tell({"leases": {"a": ["cancel", 5, "enough"]}})
    teller.tell({"leases": {"a": ["held", 9, ""], "b": ["lost", 0, "gone"]}})
    assert teller._leases == {"a": ["cancel", 9, "enough"], "b": ["lost", 0, "gone"]}
    assert worse(["lost", 0, "gone"], ["held", 9, ""]) == ["lost", 9, "gone"]


def children_of(pid: int) -> list[int]:
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found
