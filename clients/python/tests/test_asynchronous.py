"""Tasks whose errors are caught, and queues that are merged into a server's state."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import multiprocessing
import queue as queues
import socket
import threading
import time

import pytest

import duite
from duite import _monitor, asynchronous, reports


class State(dict):
    """As much of trame's state as the monitor uses; remembers what it held at each flush."""

    def __init__(self):
        super().__init__()
        self.flushed = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.flushed.append(dict(self))


class Server:
    def __init__(self):
        self.state = State()


@pytest.fixture
def app():
    return Server()


@pytest.fixture
def reported(monkeypatch):
    """What would be reported to a server."""
    seen = []
    monkeypatch.setattr(reports, "report_failure", lambda name, error: seen.append((name, error)))
    return seen


def logged(caplog):
    return [record for record in caplog.records if record.name == "duite.asynchronous"]


async def settled(task):
    """Waits for a task and the callbacks that follow it."""
    await asyncio.wait([task])
    await asyncio.sleep(0)


async def test_a_task_gives_its_result_and_is_pending_until_then():
    gate = asyncio.Event()

    async def work():
        await gate.wait()
        return 7

    before = asynchronous.get_number_of_pending_tasks()
    task = asynchronous.create_task(work())
    assert asynchronous.get_number_of_pending_tasks() == before + 1
    gate.set()
    assert await task == 7
    assert asynchronous.get_number_of_pending_tasks() == before


async def test_a_task_that_nobody_holds_is_not_collected():
    done = asyncio.Event()

    async def work():
        # Nothing but the task itself refers to this future.
        waiter = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.01, lambda: waiter.set_result(None))
        await waiter
        done.set()

    asynchronous.create_task(work())
    gc.collect()
    await asyncio.wait_for(done.wait(), 20)


async def test_an_error_is_logged_once_with_its_stack_and_reported(caplog, reported):
    async def breaks():
        raise ValueError("vertex 7 is in no face")

    task = asynchronous.create_task(breaks())
    await settled(task)
    (record,) = logged(caplog)
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("Exception raised by task ")
    assert "breaks" in record.getMessage()
    assert record.exc_info[1] is task.exception()
    assert "in breaks" in caplog.text
    ((name, error),) = reported
    assert name.endswith("test_an_error_is_logged_once_with_its_stack_and_reported.<locals>.breaks")
    assert error is task.exception()


async def test_a_cancel_is_no_error(caplog, reported):
    task = asynchronous.create_task(asyncio.sleep(60))
    task.cancel()
    await settled(task)
    assert task.cancelled()
    assert not logged(caplog)
    assert not reported


async def test_a_future_of_an_executor_is_decorated_like_a_task(caplog, reported):
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = loop.run_in_executor(pool, int, "no number")
        assert asynchronous.decorate_task(future) is future
        await settled(future)
    assert len(logged(caplog)) == 1
    assert [name for name, _ in reported] == ["future"]


async def test_a_tasks_given_name_is_its_type(reported):
    async def breaks():
        raise ValueError

    task = asyncio.get_running_loop().create_task(breaks(), name="read mesh")
    await settled(asynchronous.decorate_task(task))
    assert [name for name, _ in reported] == ["read mesh"]


async def test_a_decorated_function_runs_as_a_task_later_and_keeps_its_name():
    seen = []

    @asynchronous.task
    async def note(what, *, twice=False):
        """Notes."""
        seen.extend([what] * (2 if twice else 1))
        return len(seen)

    made = note("a", twice=True)
    assert (note.__name__, note.__doc__) == ("note", "Notes.")
    assert isinstance(made, asyncio.Task)
    assert seen == []
    assert await made == 2
    assert seen == ["a", "a"]


def test_tasks_can_be_made_before_the_loop_runs_and_on_a_loop_of_ones_own(caplog):
    def elsewhere():
        # A thread of its own has no loop yet.
        loop = asynchronous.get_event_loop()
        task = asynchronous.create_task(asyncio.sleep(0, 1))
        results.append(loop.run_until_complete(task))
        assert asynchronous.get_event_loop() is loop
        loop.close()

    results = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    loop = asyncio.new_event_loop()
    results.append(loop.run_until_complete(asynchronous.create_task(asyncio.sleep(0, 2), loop)))
    loop.close()
    assert results == [1, 2]


QUEUES = {
    "queue": queues.Queue,
    "asyncio": asyncio.Queue,
    "multiprocessing": lambda: multiprocessing.get_context("spawn").Queue(),
}


@pytest.fixture(params=[*QUEUES, "manager"])
def queue(request):
    """Each kind of queue that the monitor polls."""
    if request.param != "manager":
        yield QUEUES[request.param]()
        return
    with multiprocessing.get_context("spawn").Manager() as manager:
        yield manager.Queue()


async def test_the_first_arrival_is_merged_at_once_and_the_exit_ends_the_monitor(app, queue):
    monitor = asynchronous.create_state_queue_monitor_task(app, queue, delay=3600)
    await asyncio.sleep(0.05)
    with_queue = asynchronous.StateQueue(queue)
    with_queue.update({"a": 1, "b": 2})
    with_queue.exit()
    # multiprocessing's queue passes the two on one after the other, from a thread.
    await until(lambda: app.state.flushed)
    assert app.state.flushed == [{"a": 1, "b": 2}]
    monitor.cancel()
    await settled(monitor)


async def until(check, seconds=20):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def test_each_item_is_merged_by_itself_in_order_and_other_texts_are_ignored(app):
    queue = queues.Queue()
    for item in (
        {"a": 1},
        "no dict",
        {"a": 2, "b": 1},
        {"a": 3},
        asynchronous.QUEUE_EXIT,
        {"a": 4},
    ):
        queue.put(item)
    await asyncio.wait_for(asynchronous.create_state_queue_monitor_task(app, queue), 20)
    assert app.state.flushed == [{"a": 1}, {"a": 2, "b": 1}, {"a": 3, "b": 1}]
    assert queue.get_nowait() == {"a": 4}


async def test_with_fold_what_waits_is_merged_as_one(app):
    queue = queues.Queue()
    for item in ({"a": 1, "b": 1}, {"a": 2}, {"a": 3}, asynchronous.QUEUE_EXIT):
        queue.put(item)
    await asyncio.wait_for(asynchronous.create_state_queue_monitor_task(app, queue, fold=True), 20)
    assert app.state.flushed == [{"a": 3, "b": 1}]


async def test_later_merges_are_spaced_by_the_delay(app, monkeypatch):
    slept, real = [], asyncio.sleep

    async def sleep(seconds, result=None):
        slept.append(seconds)
        if seconds == 5:  # the second item comes while the monitor pauses
            queue.put({"a": 2})
            queue.put(asynchronous.QUEUE_EXIT)
        await real(0)
        return result

    queue = queues.Queue()
    queue.put({"a": 1})
    monkeypatch.setattr(_monitor.asyncio, "sleep", sleep)
    await asyncio.wait_for(asynchronous.create_state_queue_monitor_task(app, queue, delay=5), 20)
    assert slept == [5]
    assert app.state.flushed == [{"a": 1}, {"a": 2}]


async def test_a_cancelled_monitor_leaves_what_waits_in_the_queue(app, caplog):
    queue = queues.Queue()
    monitor = asynchronous.create_state_queue_monitor_task(app, queue)
    await asyncio.sleep(0.03)
    monitor.cancel()
    await settled(monitor)
    queue.put({"a": 1})
    await asyncio.sleep(0.03)
    assert queue.get_nowait() == {"a": 1}
    assert monitor.cancelled()
    assert not logged(caplog)


async def test_an_item_that_cannot_be_merged_is_logged_and_those_that_follow_are_merged(
    app, caplog
):
    queue = queues.Queue()
    for item in (17, {"a": 1}, asynchronous.QUEUE_EXIT):
        queue.put(item)
    await asyncio.wait_for(asynchronous.create_state_queue_monitor_task(app, queue), 20)
    assert app.state == {"a": 1}
    assert len(logged(caplog)) == 1


async def test_a_flood_of_items_does_not_keep_the_loop_from_other_work(app):
    queue = queues.Queue()
    stop, turns = time.monotonic() + 0.2, 0

    class Endless:
        """Always has one more, until the time is up."""

        def empty(self):
            return False

        def get_nowait(self):
            return {"n": 1} if time.monotonic() < stop else asynchronous.QUEUE_EXIT

    monitor = asynchronous.create_state_queue_monitor_task(app, Endless())
    while not monitor.done():
        turns += 1
        await asyncio.sleep(0)
    assert queue.empty()
    assert turns > 3


class Telling(queues.Queue):
    """A queue that says itself when something has come, as duite's does."""

    def __init__(self):
        super().__init__()
        self.callback = None

    def _on_arrival(self, callback):
        self.callback = callback

        def forget():
            self.callback = None

        return forget

    def put(self, item, *given, **named):
        super().put(item, *given, **named)
        if self.callback:
            self.callback()


async def test_a_queue_that_tells_of_arrivals_is_not_polled(app, monkeypatch):
    monkeypatch.setattr(_monitor, "_POLL", 3600)
    monkeypatch.setattr(_monitor, "_FALLBACK", 3600)
    queue = Telling()
    monitor = asynchronous.create_state_queue_monitor_task(app, queue, delay=0.001)
    await asyncio.sleep(0.01)
    for number in range(3):
        threading.Thread(target=queue.put, args=({"n": number},)).start()
        await until(lambda number=number: app.state.get("n") == number)
    queue.put(asynchronous.QUEUE_EXIT)
    await asyncio.wait_for(monitor, 20)
    assert queue.callback is None


async def test_a_queue_that_breaks_ends_the_monitor_with_a_logged_error(app, caplog):
    class Broken:
        def empty(self):
            raise ConnectionResetError("the manager is gone")

    monitor = asynchronous.create_state_queue_monitor_task(app, Broken())
    await settled(monitor)
    assert isinstance(monitor.exception(), ConnectionResetError)
    assert len(logged(caplog)) == 1


async def test_a_server_that_is_away_keeps_neither_the_loop_nor_its_other_tasks(app):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        queue = duite.Queue("away", addr=f"127.0.0.1:{nobody.getsockname()[1]}")
        monitor = asynchronous.create_state_queue_monitor_task(app, queue)
        longest, before = 0.0, time.monotonic()
        until = before + 1.5  # longer than a first look may take
        while before < until:
            await asyncio.sleep(0.01)
            longest, before = max(longest, time.monotonic() - before), time.monotonic()
        assert longest < 0.9
        assert not monitor.done()
        # Only the first look waits: trame's own monitor looks in the loop.
        before = time.monotonic()
        assert all(queue.empty() for _ in range(100))
        assert time.monotonic() - before < 0.9
        monitor.cancel()
        await settled(monitor)
        queue.close()
