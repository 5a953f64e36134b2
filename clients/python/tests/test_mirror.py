"""A state that is mirrored into a trame server's, without a queue."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from test_asynchronous import Server, logged, settled, until

import duite
from duite import asynchronous
from duite.client import Client


@pytest.fixture
def app():
    """As much of a trame server as is needed."""
    return Server()


@pytest.fixture
def client(server, monkeypatch):
    """A client of the server that the environment names."""
    monkeypatch.setenv("DUITE_ADDR", server.address)
    with Client() as client:
        yield client


async def test_a_state_is_mirrored_until_the_monitor_is_cancelled(app, client, name, caplog):
    client.update_state(name, {"a": 1, "gone": 1})
    monitor = asynchronous.create_state_queue_monitor_task(app, name, delay=0)
    await until(lambda: app.state.get("a") == 1)
    client.update_state(name, {"a": 2, "b": [1, {"c": 2}]}, delete=["gone"])
    await until(lambda: app.state.get("a") == 2)
    # What was written together is merged together.
    assert app.state == {"a": 2, "b": [1, {"c": 2}], "gone": None}
    monitor.cancel()
    await settled(monitor)
    assert monitor.cancelled()
    assert not logged(caplog)


async def test_a_state_that_is_not_there_yet_is_mirrored_once_it_is(app, client, name):
    monitor = asynchronous.create_state_queue_monitor_task(app, name)
    await asyncio.sleep(0)
    with duite.StateQueue(name) as queue:
        queue["a"] = 1
    await until(lambda: app.state.get("a") == 1)
    monitor.cancel()
    await settled(monitor)


async def test_values_come_as_a_browser_can_have_them(app, client, name):
    at = datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)
    png = b"\x89PNG" * 40_000  # larger than what a watch usually passes on
    client.update_state(name, {"image": duite.Blob(png, "image/png"), "at": at, "raw": b"x"})
    monitor = asynchronous.create_state_queue_monitor_task(app, name)
    await until(lambda: "image" in app.state)
    assert app.state["image"].startswith("data:image/png;base64,iVBOR")
    assert (app.state["at"], app.state["raw"]) == ("2026-11-23T00:00:00+00:00", b"x")
    monitor.cancel()
    await settled(monitor)


async def test_it_ends_with_the_task_and_nothing_of_what_that_wrote_is_missing(
    app, client, server, name
):
    worker = duite.Worker(server.address, queues=[name])

    @worker.task("count")
    def count(task):
        for step in range(100):
            task.state["step"] = step

    worker.start()
    try:
        task = client.submit("count", queue=name, delay=0.2)
        monitor = asynchronous.create_state_queue_monitor_task(
            app, task.id, delay=3600, until=task.name
        )
        await asyncio.wait_for(monitor, 30)
    finally:
        await asyncio.to_thread(worker.stop)
    assert app.state["step"] == 99


async def test_the_server_may_be_named_and_the_task_ended_long_ago(
    app, client, server, name, monkeypatch
):
    monkeypatch.setenv("DUITE_ADDR", "http://127.0.0.1:9")
    task = client.submit("nobody-runs-this", queue=name, state=name)
    client.update_state(name, {"a": 1})
    task.cancel()
    monitor = asynchronous.create_state_queue_monitor_task(
        app, name, addr=server.address, namespace="default", until=task.id
    )
    await asyncio.wait_for(monitor, 30)
    assert app.state == {"a": 1}


async def test_a_task_that_writes_no_state_ends_it_all_the_same(app, client, name):
    task = client.submit("nobody-runs-this", queue=name)
    monitor = asynchronous.create_state_queue_monitor_task(app, task.id, until=task.name)
    task.cancel()
    await asyncio.wait_for(monitor, 30)
    assert app.state == {}


async def test_a_wrong_name_is_an_error_that_is_logged(app, client, caplog):
    monitor = asynchronous.create_state_queue_monitor_task(app, "not a name")
    await settled(monitor)
    assert isinstance(monitor.exception(), duite.errors.InvalidArgument)
    assert len(logged(caplog)) == 1


async def test_a_listener_that_fails_does_not_end_it(app, client, name, caplog):
    class Failing(type(app.state)):
        def update(self, changes):
            super().update(changes)
            if changes.get("a") == 1:
                raise ValueError("a listener")

    app.state = Failing()
    client.update_state(name, {"a": 1})
    monitor = asynchronous.create_state_queue_monitor_task(app, name, delay=0)
    await until(lambda: app.state.get("a") == 1)
    client.update_state(name, {"a": 2})
    await until(lambda: app.state.get("a") == 2)
    assert len(logged(caplog)) == 1
    monitor.cancel()
    await settled(monitor)
