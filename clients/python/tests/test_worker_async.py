"""Handlers that are coroutine functions."""

from __future__ import annotations

import asyncio
import threading

import pytest
from working import Status, Tasks

import duite


@pytest.fixture
def tasks(server, name):
    return Tasks(server.address, name[-60:])


@pytest.fixture
def worker(tasks):
    return duite.Worker(tasks.address, queues=[tasks.queue], concurrency=10)


def test_coroutines_run_on_one_loop_beside_each_other(tasks, worker):
    waiting, go_on = [], None

    @worker.task("meet")
    async def meet(task):
        nonlocal go_on
        go_on = go_on or asyncio.Event()
        waiting.append(threading.get_ident())
        if len(waiting) == 10:
            go_on.set()
        await asyncio.wait_for(go_on.wait(), 20)
        return duite.current_task().name == task.name

    names = [tasks.submit("meet") for _ in range(10)]
    with worker:
        assert all(tasks.result(name) for name in names)
    assert len(set(waiting)) == 1


def test_a_cancel_is_a_cancelled_error(tasks, worker):
    begun, seen = threading.Event(), []

    @worker.task("long")
    async def long(task):
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(task.cancelled)
            raise

    with worker:
        name = tasks.submit("long")
        assert begun.wait(20)
        tasks.cancel(name)
        assert tasks.ended(name).status == Status.STATUS_CANCELLED
    assert seen == [True]


def test_a_failure_is_told_and_tried_again(tasks, worker):
    @worker.task("flaky")
    async def flaky(task):
        await asyncio.sleep(0)
        if task.attempt == 1:
            raise ValueError("once")
        return task.attempt

    with worker:
        name = tasks.submit("flaky", attempts=2)
        assert tasks.result(name) == 2
    failure = tasks.get(name).attempts[0].failure
    assert (failure.type, failure.location) == ("ValueError", "test_worker_async.py:flaky")


async def test_a_worker_runs_on_the_running_loop(tasks, worker):
    loops = []

    @worker.task("here")
    async def here():
        loops.append(asyncio.get_running_loop())
        return "here"

    name = tasks.submit("here")
    async with worker:
        assert await asyncio.to_thread(tasks.result, name) == "here"
    assert loops == [asyncio.get_running_loop()]


async def test_a_cancelled_run_async_tells_what_runs(tasks, worker):
    begun, go_on = asyncio.Event(), asyncio.Event()

    @worker.task("slow")
    async def slow():
        begun.set()
        await go_on.wait()
        return "done"

    name = tasks.submit("slow")
    running = asyncio.create_task(worker.run_async(drain=20))
    await asyncio.wait_for(begun.wait(), 20)
    running.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert tasks.get(name).status == Status.STATUS_SUCCEEDED


def test_a_loop_that_ends_under_a_worker_gives_its_tasks_back(tasks, worker):
    @worker.task("long")
    async def long():
        begun.set()
        await asyncio.sleep(60)

    name = tasks.submit("long", attempts=1)

    async def main():
        nonlocal begun
        begun = asyncio.Event()
        running = asyncio.create_task(worker.run_async(drain=5))
        await asyncio.wait_for(begun.wait(), 20)
        # `asyncio.run` cancels everything that is left, the handlers among it.
        return running

    begun = None
    asyncio.run(main())
    # It has cost no attempt.
    assert tasks.get(name).status == Status.STATUS_QUEUED


def test_an_async_handler_that_is_given_back_is_cancelled(tasks, worker):
    begun, seen = threading.Event(), []

    @worker.task("long")
    async def long():
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            seen.append("ended")

    worker.start()
    name = tasks.submit("long", attempts=1)
    assert begun.wait(20)
    worker.stop(drain=0)
    assert seen == ["ended"]
    assert tasks.get(name).status == Status.STATUS_QUEUED
