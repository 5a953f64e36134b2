"""A thousand tasks, on as many workers as you like, that add into one shared state.

With a server running (`duite server`), in two or more terminals

    python sweep.py work

and in another one `python sweep.py`. It estimates pi: each task counts the grid points of one row
of a quarter disc, and adds its count to the state that all share. What a task *contributes* takes
effect exactly once, with its success: kill workers (`kill -9`) while it runs, the sum stays exact.
"""

from __future__ import annotations

import argparse
import math
import time
import uuid
from collections.abc import Iterator

import duite


def count_row(task: duite.CurrentTask) -> None:
    """Runs on a worker: the points of row `y` that lie within `radius` of the corner."""
    radius, y = task.input["radius"], task.input["y"]
    inside = sum(x * x + y * y <= radius * radius for x in range(1, radius + 1))
    time.sleep(task.input["pause"])  # as if it were harder
    # Not `task.state_named(...).add(...)`, which an attempt that dies before its end may have sent
    # already, and the next one would send again.
    task.contribute(task.input["sums"], add={"inside": inside, "rows": 1})


def work(queue: str, concurrency: int) -> None:
    """A worker process."""
    worker = duite.Worker(queues=[queue], concurrency=concurrency)
    worker.add("count_row", count_row)
    worker.run()


def sweep(queue: str, tasks: int, pause: float) -> None:
    """Submits the tasks, follows them, and checks the sum."""
    client = duite.Client()
    sums = f"sweep-{uuid.uuid4().hex[:8]}"
    client.submit_many(
        duite.NewTask(
            "count_row",
            {"radius": tasks, "y": y, "sums": sums, "pause": pause},
            queue=queue,
            labels={"sweep": sums},
            # So soon the loss of a worker is noticed.
            lease_duration=2,
        )
        for y in range(tasks)
    )
    print(f"submitted {tasks} tasks; watch them add up: duite state watch {sums}", flush=True)

    with client.watch_tasks(labels={"sweep": sums}, until_terminal=tasks, interval=0.1) as watch:
        for _ in duite.track(ends(watch), total=tasks, desc="rows", unit="row"):
            pass
        failed = sum(task.status is not duite.TaskStatus.SUCCEEDED for task in watch.view.values())
        # At least as fresh as the last that the watch has shown.
        found = client.get_state(sums, min_position=watch.position)

    exact = sum(math.isqrt(tasks * tasks - y * y) for y in range(tasks))
    print(f"{found['rows']} rows, {failed} failed, {found['inside']} points inside, exact: {exact}")
    print(f"pi is about {4 * found['inside'] / tasks**2:.4f}")
    if found["inside"] != exact:
        raise SystemExit("the sum is wrong")


def ends(watch: duite.client.TaskWatch) -> Iterator[duite.Task]:
    """Each task when it has ended."""
    for event in watch:
        yield from (task for task in event.changes if task.is_terminal)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", nargs="?", choices=["work"], help="be a worker")
    parser.add_argument("--queue", default="sweep")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds a task takes longer")
    given = parser.parse_args()
    if given.mode == "work":
        work(given.queue, given.concurrency)
    else:
        sweep(given.queue, given.tasks, given.pause)
