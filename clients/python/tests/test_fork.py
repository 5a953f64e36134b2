"""Processes made with fork: gRPC works on both sides, and nothing is sent twice."""

import os
import threading
import time
import traceback

import pytest
from conftest import wait_until
from test_state_queue import entries

import duite

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


def in_child(work) -> None:
    """Does `work` in a forked process and fails where that fails or hangs."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:  # noqa: BLE001 - a child must end here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status: list[int] = []

    def ended() -> bool:
        found, code = os.waitpid(pid, os.WNOHANG)
        status.extend([code] * bool(found))
        return bool(found)

    try:
        wait_until(ended, 30, "the end of the child")
    except AssertionError:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise
    assert status == [0]


def test_a_forked_queue_is_a_writer_of_its_own_and_sends_nothing_of_its_parents(server, name):
    q = duite.StateQueue(name, addr=server.address, auto_flush=False)
    q.add(total=1)
    assert q.flush_wait(10)
    writer = q._pusher.small.core.writer
    q.add(total=10)

    def work():
        assert q._pusher.small.core.writer != writer
        q.add(total=100)
        assert q.flush_wait(10)

    in_child(work)
    assert q.flush_wait(10)
    assert entries(server, name) == {"total": 111}
    q._close(0)


def test_forks_among_busy_streams_work_and_lose_nothing(server, name):
    q = duite.StateQueue(name, addr=server.address)
    seen = []
    q.on_change("child", lambda changes: seen.append(changes["child"]))
    over = threading.Event()
    count = 0

    def busy():
        nonlocal count
        while not over.is_set():
            q.add(total=1)
            count += 1
            time.sleep(0)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for n in range(10):

            def work(n=n):
                q.child = n
                assert q.flush_wait(10)

            in_child(work)
    finally:
        over.set()
        thread.join()
    assert q.flush_wait(10)
    wait_until(lambda: seen[-1:] == [9], what="the last child's word")
    assert entries(server, name) == {"total": count, "child": 9}
    q._close(0)


def test_a_forked_process_follows_what_it_asks_for_and_nothing_of_its_parents(server, name):
    q, other = (duite.StateQueue(name, addr=server.address) for _ in range(2))
    seen = []
    q.on_change("n", seen.append)
    other.n = 1
    wait_until(lambda: seen == [{"n": 1}])

    def work():
        mine = []
        q.on_change("n", mine.append)
        wait_until(lambda: mine == [{"n": 1}], 10)
        other.n = 2
        wait_until(lambda: mine[1:] == [{"n": 2}], 10)
        assert seen == [{"n": 1}]

    in_child(work)
    wait_until(lambda: seen[-1] == {"n": 2})
    q._close(0)
    other._close(0)


def test_a_fork_does_not_wait_long_for_a_server_that_is_away():
    q = duite.StateQueue("s", addr="http://127.0.0.1:1")
    q.a = 1
    began = time.monotonic()
    in_child(lambda: None)
    assert time.monotonic() - began < 5
    q._close(0)
