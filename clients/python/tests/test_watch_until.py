"""Watches of a state that end with a task, against the real server, also one that is killed."""

import asyncio
import gc
import os
import threading
import time

import pytest
from _raw import RawWorker
from conftest import wait_until
from test_watch_core import START, bookmark, delta, opened, synced

import duite
from duite import errors
from duite._until import Ending
from duite._watch_core import Plan
from duite.errors import DuiteError
from duite.tasks import Position, Task
from duite.v1 import task_service_pb2
from duite.v1.watch_pb2 import WatchOptions
from duite.watches import StateKind, TaskEvent, TaskView


@pytest.fixture
def client(server):
    with duite.Client(server.address) as it:
        yield it


def raw(server, name):
    return RawWorker(server.address, name)


def followers() -> int:
    return sum(thread.name in ("duite-watch", "duite-until") for thread in threading.enumerate())


def soon(started: float) -> bool:
    """Well before a bookmark would come."""
    return time.monotonic() - started < 4


def test_a_watch_that_opens_after_the_tasks_end_gives_the_state_and_ends(client, server, name):
    task = client.submit("work", queue=name, state=name)
    client.update_state(name, {"n": 1})
    raw(server, name).succeed(1)
    task.wait(20)
    client.update_state("another-" + name, {"n": 1})
    started = time.monotonic()
    watch = client.watch_state(name, until=task)
    assert [dict(event.view) for event in watch] == [{"n": 1}]
    assert watch.next() is None
    # It was opened once.
    assert (watch.reconnects, soon(started)) == (0, True)
    assert [dict(event.view) for event in task.watch_state()] == [{"n": 1}]
    assert len(list(client.watch_state(name, until=task.id, updates_only=True))) == 1
    gone = client.watch_state(name, until=task, start=watch.position)
    assert [list(event.changes) for event in gone] == [[]]


@pytest.mark.parametrize("interval", [None, 9])
def test_a_watch_ends_with_the_task_and_has_seen_what_was_written_last(
    client, server, name, interval
):
    task = client.submit("work", queue=name, state=name)
    watch = client.watch_state(name, until=task.id, interval=interval)
    assert dict(watch.next(20).view) == {}
    with pytest.raises(errors.Timeout):
        watch.next(0.1)
    client.update_state(name, {"n": 1})
    assert dict(watch.next(20).view) == {"n": 1}
    client.update_state(name, {"n": 2})
    client.update_state(name, {"n": 3})
    raw(server, name).succeed(1)
    started = time.monotonic()
    assert [event.view["n"] for event in watch][-1:] in ([3], [])
    assert watch.view["n"] == 3
    assert soon(started)
    assert task.get().is_terminal


def test_a_watch_of_keys_that_never_came_ends_too(client, name):
    task = client.submit("work", queue=name, state=name)
    with task.watch_state(keys="nothing") as watch:
        assert dict(watch.next(20).view) == {}
        task.cancel()
        assert watch.next(4) is None


def test_what_a_worker_writes_until_its_end_is_seen(client, server, name):
    worker = duite.Worker(server.address, queues=[name])

    @worker.task("count")
    def count(task):
        for step in range(300):
            task.state["step"] = step

    worker.start()
    try:
        for _ in range(10):
            watch = client.submit("count", queue=name).watch_state()
            for _ in watch:
                pass
            assert watch.view["step"] == 299
    finally:
        worker.stop()


def test_there_is_no_end_without_a_task(client, name):
    watch = client.watch_state(name, until="nobody")
    with pytest.raises(errors.NotFound, match="nobody"):
        watch.next(20)
    assert list(watch) == []
    with pytest.raises(errors.InvalidArgument, match="two namespaces"):
        client.watch_state(name, until="namespaces/other/tasks/t")


def test_a_server_that_is_killed_meanwhile_is_waited_for(own_server, name, caplog):
    client = duite.Client(own_server.address)
    task = client.submit("work", queue=name, state=name)
    watch = task.watch_state()
    watch.next(20)
    own_server.kill()
    with pytest.raises(errors.Timeout):
        watch.next(1)
    own_server.start()
    client.update_state(name, {"n": 1})
    raw(own_server, name).succeed(1)
    assert [dict(event.view) for event in watch] == [{"n": 1}]
    assert [record.levelname for record in caplog.records] == ["WARNING"], caplog.text


def test_a_task_that_ended_while_the_watch_was_away_ends_it(own_server, name):
    client = duite.Client(own_server.address)
    task = client.submit("work", queue=name, state=name)
    watch = task.watch_state()
    watch.next(20)
    # Nobody asks the watch for anything meanwhile.
    client.update_state(name, {"n": 1})
    raw(own_server, name).succeed(1)
    own_server.kill()
    following = threading.Thread(target=lambda: list(watch))
    following.start()
    own_server.start()
    following.join(30)
    assert not following.is_alive()
    assert dict(watch.view) == {"n": 1}


def test_a_server_that_was_never_there_is_waited_for_and_told_of_once(own_server, name, caplog):
    client = duite.Client(own_server.address)
    task = client.submit("work", queue=name, state=name)
    own_server.kill()
    watch = task.watch_state()
    with pytest.raises(errors.Timeout):
        watch.next(0.5)
    assert [record.levelname for record in caplog.records] == ["WARNING"], caplog.text
    own_server.start()
    assert dict(watch.next(30).view) == {}
    watch.close()


def test_a_watch_that_is_dropped_or_closed_leaves_nothing_running(client, name):
    task = client.submit("work", queue=name)
    before = followers()
    for _ in task.watch_state():
        break
    gc.collect()
    wait_until(lambda: followers() <= before, what="the end of the threads")
    watch = task.watch_state()
    next(watch)
    following = threading.Thread(target=lambda: list(watch))
    following.start()
    watch.close()
    following.join(10)
    assert not following.is_alive()
    wait_until(lambda: followers() <= before, what="the end of the threads")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_hears_of_the_end_too(client, server, name):
    task = client.submit("work", queue=name, state=name)
    watch = task.watch_state()
    next(watch)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            raw(server, name).succeed(1)
            code = 0 if watch.next(20) is None else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert watch.next(20) is None


async def test_it_is_the_same_with_asyncio(server, name):
    async with duite.AsyncClient(server.address) as client:
        task = await client.submit("work", queue=name, state=name)
        watch = client.watch_state(name, until=task)
        assert dict((await watch.next(20)).view) == {}
        for _ in range(10):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(watch), 0.001)
        await client.update_state(name, {"n": 1})
        await asyncio.to_thread(raw(server, name).succeed, 1)
        started = time.monotonic()
        assert [dict(event.view) async for event in watch][-1:] in ([{"n": 1}], [])
        assert watch.view["n"] == 1
        assert soon(started)
        assert [dict(event.view) async for event in task.watch_state()] == [{"n": 1}]
        with pytest.raises(errors.NotFound, match="nobody"):
            await client.watch_state(name, until="nobody").next(20)
        waiting = await client.submit("work", queue=name)
        async for _ in waiting.watch_state():
            break
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=10)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_server_that_is_killed_meanwhile_is_waited_for_with_asyncio(own_server, name):
    async with duite.AsyncClient(own_server.address) as client:
        task = await client.submit("work", queue=name, state=name)
        watch = task.watch_state()
        await watch.next(20)
        own_server.kill()
        with pytest.raises(errors.Timeout):
            await watch.next(1)
        await asyncio.to_thread(own_server.start)
        await client.update_state(name, {"n": 1})
        await asyncio.to_thread(raw(own_server, name).succeed, 1)
        assert [dict(event.view) async for event in watch] == [{"n": 1}]


# The pure half.


def event(*tasks, revision=9):
    view = TaskView()
    for task in tasks:
        view.apply(task)
    return TaskEvent(tasks, [], view, Position(revision, b"token"), 1)


def a_task(status, uid="1", revision=5):
    return Task(task_service_pb2.Task(name="t", uid=uid, status=status, revision=revision))


RUNNING, FAILED = task_service_pb2.Task.STATUS_RUNNING, task_service_pb2.Task.STATUS_FAILED


def test_the_end_is_the_revision_of_the_tasks_last_change():
    ending = Ending("t")
    assert ending.see(event(a_task(RUNNING))) is None
    assert ending.see(event(a_task(FAILED))) == Position(5, b"token")


def test_a_task_that_was_deleted_or_replaced_unseen_has_ended():
    for later in (event(), event(a_task(RUNNING, uid="2"))):
        ending = Ending("t")
        ending.see(event(a_task(RUNNING)))
        assert ending.see(later) == Position(9, b"token")


def a_plan():
    plan = Plan(
        StateKind("namespaces/default/states/s", [], [], 0, lambda key: None), WatchOptions()
    )
    plan.request()
    for response in (opened(START.START_SNAPSHOT, 3), synced(3)):
        plan.on_frame(response)
    return plan


def test_a_view_that_is_as_fresh_already_needs_no_other_stream():
    plan = a_plan()
    assert not plan.on_task_end(Position(3, b"end"))
    assert plan.is_over


@pytest.mark.parametrize("news", [bookmark(4), delta(3, 5, {"a": 1})])
def test_a_view_that_becomes_as_fresh_by_itself_is_the_last(news):
    plan = a_plan()
    assert plan.on_task_end(Position(4, b"end"))
    assert not plan.is_over
    plan.on_frame(news)
    assert plan.is_over


def test_the_next_stream_is_as_fresh_as_the_end_once_it_is_complete():
    plan = a_plan()
    plan.on_task_end(Position(7, b"end"))
    plan.on_drop()
    assert plan.request().options.min_position == b"end"
    plan.on_frame(opened(START.START_RESUMED, 3))
    shown = plan.on_frame(delta(3, 6, {"a": 1}))
    assert shown
    assert not plan.is_over
    plan.on_frame(synced(8))
    assert plan.is_over


def test_any_view_of_a_new_history_is_later_than_an_end_in_the_old():
    plan = a_plan()
    plan.on_task_end(Position(7, b"end"))
    plan.on_drop()
    plan.request()
    plan.on_end(DuiteError("another history", code="ABORTED", reason="EPOCH_CHANGED"))
    options = plan.request().options
    assert (options.min_position, options.resume_token) == (b"", b"")
    plan.on_frame(opened(START.START_SNAPSHOT, 1))
    assert not plan.is_over
    plan.on_frame(synced(1))
    assert plan.is_over
