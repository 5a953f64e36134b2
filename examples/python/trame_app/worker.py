"""Does the work of `app.py`, on any machine: learns to paint a picture, and shows how it goes on.

Everything that it sets in its task's state is in the app's state a moment later.
"""

from __future__ import annotations

import duite
import numpy as np
from PIL import Image

worker = duite.Worker(queues=["paint"])

SIZE = 96


@worker.task("paint")
def paint(task: duite.CurrentTask) -> dict[str, float]:
    """Fits waves to a picture by gradient descent."""
    task.state["status"] = "painting"
    steps, pause = task.input["steps"], task.input["pause"]
    picture = target()
    waves = random_waves(count=400)
    weights = np.zeros(waves.shape[1])
    losses: list[float] = []
    for step in duite.track(range(steps), desc="steps"):
        error = waves @ weights - picture
        weights -= 2000 * (waves.T @ error) / len(error)
        losses.append(float(np.mean(error**2)))
        # Never waits for anybody; what is faster than the browser folds.
        task.state.update({"loss": losses[-1], "losses": losses[-50:]})
        if step % 5 == 0 or step == steps - 1:
            task.state["preview"] = image_of(waves @ weights)
        if task.wait_cancelled(pause):
            break
    task.check_cancelled()
    return {"loss": losses[-1]}


def grid() -> tuple[np.ndarray, np.ndarray]:
    """The pixels' coordinates, from -1 to 1."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE))
    return x.ravel(), y.ravel()


def target() -> np.ndarray:
    """The picture: a spiral."""
    x, y = grid()
    return np.sin(8 * np.hypot(x, y) + 3 * np.arctan2(y, x))


def random_waves(count: int) -> np.ndarray:
    """One column for each wave, one row for each pixel."""
    rng = np.random.default_rng(0)
    frequencies, phases = rng.normal(scale=6, size=(2, count)), rng.uniform(0, 6.28, count)
    return np.cos(np.column_stack(grid()) @ frequencies + phases) / count


def image_of(values: np.ndarray) -> Image.Image:
    """In a state an image travels as a PNG."""
    pixels = np.clip(127 + 127 * values, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels.reshape(SIZE, SIZE))


if __name__ == "__main__":
    worker.run()
