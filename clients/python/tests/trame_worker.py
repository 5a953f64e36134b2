"""The process that works in the tests of trame: pushes through a StateQueue into a queue.

    trame_worker.py trame|duite|state ADDRESS STATE STEPS

with trame's own StateQueue or duite's, over `duite.Queue`, or with duite's into the state itself;
or imported, its `work` is run in a process of `multiprocessing`.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def work(library: str, queue: Any, steps: int, pause: float = 0.1) -> None:
    """Works through a StateQueue of that library."""
    if library == "trame":
        from trame.app.asynchronous import StateQueue
    else:
        from duite.asynchronous import StateQueue
    through = StateQueue(queue)
    assert through.queue is queue
    tell(through, steps, pause)


def tell(through: Any, steps: int, pause: float = 0.1) -> None:
    """What a worker does: says that it runs, sets two keys at once, counts, and says that it has
    ended."""
    with through as state:
        state.running = True
        state.update({"b": 10, "c": 20})
        assert (state.b, state["c"], state.unknown) == (10, 20, None)
        for step in range(steps):
            time.sleep(pause)
            state["a"] = step
            assert state.a == state["a"] == step
        state.running = False


if __name__ == "__main__":
    import duite

    library, address, name, steps = sys.argv[1:]
    if library == "state":
        tell(duite.StateQueue(name, addr=address), int(steps))
    else:
        queue = duite.Queue(name, addr=address)
        work(library, queue, int(steps))
        queue.close()
