"""Uses the whole public surface as a program would; pyright --strict must find nothing to say."""

from __future__ import annotations

import asyncio
import logging

import duite
from duite import asynchronous, errors

worker = duite.Worker(queues=["gpu"], concurrency=2)


@worker.task("train")
def train(task: duite.CurrentTask) -> dict[str, float]:
    saved: object = task.get_state(["checkpoint"]).get("checkpoint")
    print(saved)
    for epoch in duite.track(range(3, 10), initial=3):
        task.check_cancelled()
        task.state.update({"epoch": epoch, "loss": 1 / (epoch + 1)})
    task.contribute("totals", add={"runs": 1})
    return {"loss": 0.1}


@worker.task("render")
async def render(task: duite.CurrentTask) -> bytes:
    await asyncio.sleep(0)
    if task.attempt > 2:
        raise duite.PermanentError("no such mesh")
    return b"png"


@worker.task("alone", run="process")
def alone() -> None:
    current = duite.current_task()
    if current is not None and current.cancelled:
        raise duite.RetryLater("later", delay=5)


def sync_client() -> float:
    with duite.Client(namespace="default") as client:
        task = client.submit("train", {"epochs": 3}, state="run-1", labels={"by": "me"})
        many = client.submit_many([duite.NewTask("train", n) for n in range(3)])
        client.wait([handle.name for handle in many], timeout=10)
        found: duite.Task = client.get(task.name)
        if found.status is duite.TaskStatus.FAILED:
            client.retry(task.name)
        for listed in client.list(queues=["gpu"]):
            print(listed.id, listed.status)
        for event in client.watch_state("run-1"):
            print(event.view.get("loss"), [entry.key for entry in event.changes])
            break
        client.update_state("run-1", {"zoom": 2}, add={"n": 1}, delete=["old"])
        view: duite.StateView = client.get_state("run-1")
        follow(task.watch_state(keys=["loss"], interval=0.1))
        follow(client.watch_state("run-1", until=task))
        of_tasks: duite.TaskWatch = client.watch_tasks(names=[task.name], until_terminal=True)
        for change in of_tasks:
            changed: duite.TaskEvent = change
            print([one.status for one in changed.changes], changed.removed)
        try:
            result: object = task.result(timeout=1)
        except errors.TaskFailed as error:
            print(error.failure.type, error.stack_trace)
        except errors.TaskCancelled:
            pass
        else:
            print(result)
        task.cancel()
        return float(view["loss"])


def follow(watch: duite.StateWatch) -> duite.StateView:
    with watch:
        for event in watch:
            show(event)
    return watch.view


def show(event: duite.StateEvent) -> None:
    print(event.revision, len(event.changes), event.folded_commits)


async def async_client() -> None:
    async with duite.AsyncClient() as client:
        task = await client.submit("train", None)
        async for event in client.watch_state("run-1"):
            print(dict(event.view))
            break
        watch: duite.AsyncStateWatch = client.watch_state("run-1", until=task)
        async for event in watch:
            show(event)
        async for event in task.watch_state(prefixes="img/"):
            show(event)
        tasks: duite.AsyncTaskWatch = client.watch_tasks(status="running")
        print(await tasks.next(timeout=1))
        print(await task.result(timeout=1))


def state() -> None:
    with duite.StateQueue(state="run-1", auto_flush=False) as queue:
        queue["progress"] = 0.5
        queue.phase = "mesh"
        queue.update({"preview": duite.Blob(b"png", "image/png")})
        queue.add("cells", 10)
        queue.max(high=3.5)
        queue.delete("old")
        queue.on_change(["zoom"], lambda changed: print(changed["zoom"]))
        queue.flush()
        arrived: bool = queue.flush_wait(timeout=1)
        print(arrived)
    items = duite.Queue("items")
    items.put({"any": "thing"})
    if not items.empty():
        print(items.get_nowait())


@duite.task
async def background(path: str) -> int:
    return len(path)


async def trame(server: object) -> None:
    asynchronous.create_state_queue_monitor_task(server, duite.Queue("run-1"), delay=0.1)
    running = background("wing.msh")
    length: int = await running
    print(length, asynchronous.get_number_of_pending_tasks())


logging.getLogger().addHandler(duite.LogHandler())

if __name__ == "__main__":
    worker.run()
