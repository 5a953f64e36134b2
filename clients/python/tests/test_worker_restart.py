"""The server is killed and started again under a worker."""

from __future__ import annotations

import logging
import threading

from conftest import wait_until
from working import Tasks

import duite
from duite._outage import Outage


def test_a_server_that_is_killed_loses_nothing_and_is_told_of_once(own_server, name, caplog):
    caplog.set_level(logging.INFO, logger="duite")
    tasks = Tasks(own_server.address, name[-60:])
    worker = duite.Worker(own_server.address, queues=[tasks.queue], concurrency=3)
    begun, go_on = threading.Semaphore(0), threading.Event()
    runs = []

    @worker.task("work")
    def work(task):
        runs.append(task.input)
        task.state["before"] = True
        begun.release()
        assert go_on.wait(60)
        task.state["after"] = True
        return task.input

    with worker:
        names = [tasks.submit("work", number) for number in range(20)]
        for _ in range(3):
            assert begun.acquire(timeout=20)
        wait_until(lambda: all("before" in tasks.state(it.rsplit("/", 1)[1]) for it in names[:3]))
        own_server.kill()
        wait_until(lambda: any("lost the server" in it for it in said(caplog)), what="the warning")
        # They end, and want to tell it, while there is nobody.
        go_on.set()
        wait_until(lambda: worker.attempts == 0)
        own_server.start()
        assert [tasks.result(it, 60) for it in names] == list(range(20))
    assert sorted(runs) == list(range(20))
    for it in names:
        assert tasks.get(it).attempt == 1
        assert tasks.state(it.rsplit("/", 1)[1]) == {"before": True, "after": True}
    warnings = [it.message for it in caplog.records if it.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith(f"lost the server at {own_server.address} (")
    assert [it for it in said(caplog) if "is back" in it] != []
    assert len([it for it in caplog.records if it.levelno == logging.INFO]) == 1


def test_running_handlers_keep_their_leases_over_a_restart(own_server, name, caplog):
    caplog.set_level(logging.INFO, logger="duite")
    tasks = Tasks(own_server.address, name[-60:])
    worker = duite.Worker(own_server.address, queues=[tasks.queue], concurrency=2)
    go_on = threading.Event()

    @worker.task("work")
    def work(task):
        assert go_on.wait(60)
        return task.cancelled

    with worker:
        names = [tasks.submit("work") for _ in range(2)]
        wait_until(lambda: worker.attempts == 2)
        for _ in range(2):
            before = len(said(caplog))
            own_server.kill()
            wait_until(lambda: len(said(caplog)) == before + 1, what="the warning")  # noqa: B023
            own_server.start()
            wait_until(lambda: len(said(caplog)) == before + 2, what="the news")  # noqa: B023
        go_on.set()
        assert [tasks.result(it) for it in names] == [False, False]
    assert [tasks.get(it).attempt for it in names] == [1, 1]
    assert ["lost" in it for it in said(caplog)] == [True, False, True, False]


def test_an_outage_is_told_of_once_whichever_connection_finds_out(caplog):
    caplog.set_level(logging.INFO, logger="duite")
    clock = [100.0]
    outage = Outage("here", lambda: clock[0])
    outage.worked(99)
    outage.failed(99, "UNAVAILABLE")
    clock[0] = 101.0
    outage.failed(100, "UNAVAILABLE")
    # It began before the server was lost.
    outage.worked(98)
    assert len(said(caplog)) == 1
    clock[0] = 102.0
    outage.worked(101.5)
    # Another connection is not there yet.
    outage.failed(102.1, "UNAVAILABLE")
    assert said(caplog)[1] == "the server at here is back after 2.0 s"
    outage.failed(107, "UNAVAILABLE")
    assert len(said(caplog)) == 3


def said(caplog):
    return [it.message for it in caplog.records if it.levelno >= logging.INFO]
