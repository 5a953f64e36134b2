"""Does the jobs of `app.py`. Start it as often as you like, on any machine."""

from __future__ import annotations

import duite

worker = duite.Worker(queues=["render"])


@worker.task("render")
def render(task: duite.CurrentTask) -> dict[str, int]:
    """Some steps that take their time."""
    steps = task.input["steps"]
    task.state["title"] = f"Rendering {steps} frames"
    for _ in duite.track(range(steps), desc="frames"):
        if task.wait_cancelled(0.1):  # as if it were work
            break
    task.check_cancelled()
    return {"frames": steps}


if __name__ == "__main__":
    worker.run()
