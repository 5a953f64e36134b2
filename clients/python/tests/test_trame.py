"""trame, with a worker in another process: everything that trame-server's own tests of its module
check, over duite's queue with trame's own unmodified code, and with `duite.asynchronous`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pathlib
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest
import trame_worker

import duite
from duite import asynchronous

pytest.importorskip("trame.app")
from trame.app import asynchronous as trames
from trame.app import get_server

STEPS = 10
WORKER = pathlib.Path(trame_worker.__file__)


class App:
    """A trame server that runs, and what its listeners were told."""

    def __init__(self, name):
        self.server = get_server(name)
        self.state = self.server.state
        self.running, self.steps = [], []
        self.state.running = False
        self.state.a = 0
        self.state.change("running")(lambda running, **_: self.running.append(running))
        self.state.change("a")(lambda a, **_: self.steps.append(a))

    async def start(self):
        self.server.start(exec_mode="task", port=0)
        assert await self.server.ready

    def check(self):
        """What holds after the worker's end: each value was seen, in order, none twice."""
        assert self.running == [False, True, False]
        assert self.steps == list(range(STEPS))
        assert (self.state.b, self.state.c) == (10, 20)


@pytest.fixture
async def app(name):
    """A trame app; it is stopped afterwards."""
    it = App(name)
    await it.start()
    yield it
    await it.server.stop()


@pytest.fixture
def worker(server):
    """Starts the worker as a process of its own; `worker(library, state)`."""
    started = []

    def start(library, state):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("DUITE_ADDR", None)
        command = [sys.executable, str(WORKER), library, server.address, state, str(STEPS)]
        started.append(subprocess.Popen(command, env=environment))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait(30)


async def in_time(awaitable):
    return await asyncio.wait_for(awaitable, 60)


async def ended(process):
    assert await in_time(asyncio.get_running_loop().run_in_executor(None, process.wait)) == 0


async def test_trames_own_state_queue_and_monitor_work_over_duites_queue(app, worker, server, name):
    queue = duite.Queue(name, addr=server.address)
    monitor = trames.create_state_queue_monitor_task(app.server, queue)
    process = worker("trame", name)
    # It ends by the mark that the worker's `exit` puts last.
    await in_time(monitor)
    await ended(process)
    app.check()
    assert queue.empty()
    queue.close()


async def test_trames_own_monitor_merges_while_the_worker_goes_on(app, worker, server, name):
    queue = duite.Queue(name, addr=server.address)
    monitor = trames.create_state_queue_monitor_task(app.server, queue, delay=0.01)
    process = worker("trame", name)
    while len(app.steps) < 3:
        await asyncio.sleep(0.01)
    assert process.poll() is None
    await in_time(monitor)
    app.check()
    queue.close()


async def test_trames_own_monitor_finds_at_its_first_look_what_was_put_before(app, server, name):
    queue = duite.Queue(name, addr=server.address)
    trame_worker.work("trame", queue, STEPS, pause=0)
    monitor = trames.create_state_queue_monitor_task(app.server, queue, delay=3600)
    await in_time(monitor)
    app.check()
    queue.close()


async def test_duites_monitor_works_over_duites_queue(app, worker, server, name):
    queue = duite.Queue(name, addr=server.address)
    monitor = asynchronous.create_state_queue_monitor_task(app.server, queue)
    process = worker("duite", name)
    await in_time(monitor)
    await ended(process)
    app.check()
    queue.close()


async def test_duites_module_works_with_a_process_of_multiprocessing(app):
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager:
        queue = manager.Queue()
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            work = asynchronous.decorate_task(
                asyncio.get_running_loop().run_in_executor(
                    pool, trame_worker.work, "duite", queue, STEPS
                )
            )
            await in_time(asynchronous.create_state_queue_monitor_task(app.server, queue))
            await in_time(work)
    app.check()


async def test_a_state_that_another_process_writes_is_mirrored_without_a_queue(
    app, worker, server, name, monkeypatch
):
    monkeypatch.setenv("DUITE_ADDR", server.address)
    monitor = asynchronous.create_state_queue_monitor_task(app.server, name, delay=0.01)
    process = worker("state", name)
    while app.running[-1:] != [False] or not app.steps or app.steps[-1] < STEPS - 1:
        await in_time(asyncio.sleep(0.01))
    await ended(process)
    monitor.cancel()
    await asyncio.wait([monitor])
    # Folded or not, no value comes late, none twice, and the last one always.
    assert app.running == [False, True, False]
    assert app.steps == sorted(set(app.steps))
    assert (app.state.a, app.state.b, app.state.c) == (STEPS - 1, 10, 20)


async def test_a_task_of_trames_state_that_fails_is_logged_like_any_other(app, caplog):
    @app.state.change("broken")
    async def on_broken(broken, **_):
        if broken:
            raise ValueError("the mesh is broken")

    started = threading.Event()

    @asynchronous.task
    async def breaks():
        started.set()
        raise ValueError("the task is broken")

    with app.state:
        app.state.broken = True
    breaks()
    assert not started.is_set()
    for _ in range(3):
        await asyncio.sleep(0)
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len([line for line in said if line.startswith("Exception raised by task ")]) == 2
