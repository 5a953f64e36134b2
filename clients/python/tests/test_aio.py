"""The asynchronous client against the real server: the same as the synchronous one, awaited."""

import asyncio
import gc
import logging
import time
import uuid

import pytest
from _raw import RawWorker

import duite
from duite import NewTask, TaskStatus, errors


@pytest.fixture
async def client(server):
    async with duite.AsyncClient(server.address) as it:
        yield it


@pytest.fixture
def worker(server, name):
    return RawWorker(server.address, name)


async def test_a_task_is_submitted_read_and_cancelled(client, name):
    handle = await client.submit("work", {"epochs": 3}, queue=name, state="run-1")
    task = await handle.get()
    assert (task.input, task.status, handle.state) == ({"epochs": 3}, TaskStatus.QUEUED, "run-1")
    request_id = str(uuid.uuid4())
    first = await client.submit("work", 1, queue=name, request_id=request_id)
    again = await client.submit("work", 1, queue=name, request_id=request_id)
    assert first.name == again.name
    assert (await handle.cancel()).status is TaskStatus.CANCELLED
    with pytest.raises(errors.TaskCancelled):
        await handle.result()


async def test_many_tasks_are_submitted_listed_and_waited_for(client, name):
    new = [NewTask("work", n, queue=name, labels={"part": str(n % 2)}) for n in range(600)]
    new[0].priority = 77
    tried = await client.submit_many(new, return_exceptions=True)
    assert isinstance(tried[0], errors.InvalidArgument)
    assert len([task async for task in client.list(queues=name)]) == 599
    found = [task async for task in client.list(queues=name, labels={"part": "1"})]
    assert len(found) == 300
    some = tried[1:301]
    await asyncio.gather(*(handle.cancel() for handle in some))
    ended = await client.wait(some, timeout=20)
    assert [task.name for task in ended] == [handle.name for handle in some]
    assert len(await client.retry(queues=name)) == 300


async def test_a_result_is_waited_for_and_a_failure_raised(client, worker, name):
    handle = await client.submit("work", queue=name)
    working = asyncio.to_thread(worker.succeed, {"loss": 0.5})
    result, _ = await asyncio.gather(handle.result(20), working)
    assert result == {"loss": 0.5}
    handle = await client.submit("work", queue=name)
    await asyncio.to_thread(worker.fail, "no such mesh")
    with pytest.raises(errors.TaskFailed, match="no such mesh"):
        await handle.result(20)
    assert (await (await client.retry(handle.name)).get()).retry_of == handle.name
    assert handle.name in [group.last_task async for group in client.errors()]


async def test_a_wait_ends_after_its_timeout(client, name):
    handle = await client.submit("work", queue=name)
    with pytest.raises(errors.Timeout, match=handle.id):
        await handle.wait(0.2)


async def test_a_task_is_followed_until_its_end(client, worker, name):
    handle = await client.submit("work", queue=name)
    seen = []
    async for task in handle.watch():
        if not seen:
            await asyncio.to_thread(worker.succeed, 1)
        seen.append(task.status)
    assert (seen[0], seen[-1]) == (TaskStatus.QUEUED, TaskStatus.SUCCEEDED)


async def test_wrong_input_is_told_with_a_reason(client):
    with pytest.raises(errors.NotFound) as missing:
        await client.get("nobody")
    assert missing.value.reason == "TASK_NOT_FOUND"
    with pytest.raises(errors.NotFound):
        await client.wait("nobody")
    with pytest.raises(errors.InvalidArgument):
        await client.submit("no type")
    watch = client.watch_state("s", keys=["x" * 500])
    with pytest.raises(errors.InvalidArgument):
        await watch.next()
    assert [event async for event in watch] == []


async def test_a_state_is_written_read_followed_and_deleted(client, name):
    async with client.watch_state(name) as watch:
        assert dict((await watch.next()).view) == {}
        await client.update_state(name, {"a": [1], "big": b"x" * 100_000}, add={"n": 1})
        event = await watch.next(10)
        assert (event.view["a"], event.view["n"]) == ([1], 1)
        assert await event.view["big"].fetch() == b"x" * 100_000
        state = await client.get_state(name, ["a", "n"])
        assert dict(state) == {"a": [1], "n": 1}
        with pytest.raises(errors.RevisionMismatch):
            await client.update_state(name, {"a": 1}, expected_revision=state.revision - 1)
        assert name in [state async for state in client.states()]
        await client.delete_state(name)
        assert all(change.deleted for change in (await watch.next(10)).changes)
    assert await watch.next() is None
    assert (await client.info()).durability


async def test_a_cancelled_reading_loses_nothing(client, name):
    watch = client.watch_state(name)
    await watch.next(10)
    for n in range(20):
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(watch), 0.001)
        await client.update_state(name, {"n": n})
        assert (await watch.next(10)).view["n"] == n
    with pytest.raises(errors.Timeout):
        await watch.next(0.01)
    assert watch.reconnects == 0
    await watch.aclose()


async def test_closing_the_client_ends_a_waiting_watch(server, name):
    client = duite.AsyncClient(server.address)
    watch = client.watch_state(name)
    await watch.next()
    waiting = asyncio.ensure_future(watch.next())
    await asyncio.sleep(0)
    await client.close()
    assert await asyncio.wait_for(waiting, 10) is None
    with pytest.raises(errors.DuiteError, match="closed"):
        await client.info()


async def test_a_watch_that_ends_as_its_pause_does_opens_no_stream(client, name, monkeypatch):
    watch = client.watch_state(name)
    watch._open_at = time.monotonic() + 60

    async def over(waiting, timeout):
        waiting.close()
        watch.cancel()
        raise asyncio.TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr("duite._watch_aio.asyncio.wait_for", over)
        await watch._open()
    assert watch._call is None


async def test_a_watch_that_is_dropped_ends_quietly(client, name, recwarn, caplog):
    async for _ in client.watch_state(name):
        break
    gc.collect()
    await client.info()
    assert caplog.records == []
    assert [str(warning.message) for warning in recwarn] == []


async def test_a_killed_server_is_warned_of_once_and_all_goes_on(own_server, name, caplog):
    caplog.set_level(logging.INFO, "duite")
    async with duite.AsyncClient(own_server.address) as client:
        watch = client.watch_state(name)
        await watch.next()
        handle = await client.submit("work", queue=name)
        result = asyncio.ensure_future(handle.result(60))
        own_server.kill()
        with pytest.raises(errors.Timeout):
            await watch.next(1)
        await asyncio.to_thread(own_server.start)
        await client.update_state(name, {"n": 2})
        assert dict((await watch.next(20)).view) == {"n": 2}
        await asyncio.to_thread(RawWorker(own_server.address, name).succeed, "over")
        assert await result == "over"
    told = [record for record in caplog.records if "watch a state" in record.getMessage()]
    assert [record.levelname for record in told] == ["WARNING", "INFO"]


def test_a_client_serves_one_loop_after_another(server):
    client = duite.AsyncClient(server.address)

    async def ask():
        version = (await client.info()).version
        for channel in client._channels.values():
            await channel.close()
        return version

    assert asyncio.run(ask()) == asyncio.run(ask())
