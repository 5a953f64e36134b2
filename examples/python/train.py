"""Training as a task: a live loss curve, steering while it runs, and no work lost with a worker.

With a server running (`duite server`), in two terminals

    python train.py work

and in a third one `python train.py`, which shows the curve, and says how to steer: setting
`learning_rate` or `stop` in the task's state has effect within an epoch.

Kill the worker that runs it (`kill -9`): within seconds the other one goes on from the last
checkpoint, which is kept in the task's state. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import io
import uuid
from typing import Any

import duite
import numpy as np


def train(task: duite.CurrentTask) -> dict[str, Any]:
    """Runs on a worker."""
    # Here, as whoever only follows has no use for it.
    from sklearn.datasets import load_digits
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split

    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, test_size=0.3, random_state=0)
    model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=task.input["rate"])
    model.partial_fit(x[:1], y[:1], classes=range(10))
    losses = load_checkpoint(task, model)
    resumed_at = len(losses)

    # Called at once with what is set, and with every change, on a thread of its own.
    wishes: dict[str, Any] = {}
    task.on_change(["learning_rate", "stop"], wishes.update)

    epochs = task.input["epochs"]
    rest = range(resumed_at, epochs)  # an attempt before this one has done the others
    for epoch in duite.track(rest, desc="epochs", unit="epoch", initial=resumed_at):
        if wishes.get("stop") or task.wait_cancelled(task.input["pause"]):
            break
        if wishes.get("learning_rate"):
            model.set_params(eta0=float(wishes["learning_rate"]))
        model.partial_fit(x, y)
        losses.append(log_loss(y_test, model.predict_proba(x_test)))
        # Together, so that nobody sees the one without the other.
        task.state.update({"epoch": epoch + 1, "loss": losses[-1], "losses": losses})
        task.state["checkpoint"] = checkpoint(model, losses)
    task.check_cancelled()
    return {
        "accuracy": model.score(x_test, y_test),
        "epochs": len(losses),
        "resumed_at": resumed_at,
        "rate": model.eta0,
    }


def checkpoint(model: Any, losses: list[float]) -> duite.Blob:
    """All that the next attempt needs, in one value: it is never half of one epoch and half of
    another. Arrays, not a pickle, which would run code where it is read."""
    file = io.BytesIO()
    np.savez(file, coef=model.coef_, intercept=model.intercept_, losses=losses)
    return duite.Blob(file.getvalue(), "application/x-npz")


def load_checkpoint(task: duite.CurrentTask, model: Any) -> list[float]:
    """Puts what an earlier attempt has learned into the model, and gives the losses so far."""
    saved = task.get_state("checkpoint").get("checkpoint")
    if saved is None:
        return []
    with np.load(io.BytesIO(saved.data), allow_pickle=False) as arrays:
        model.coef_[:], model.intercept_[:] = arrays["coef"], arrays["intercept"]
        return arrays["losses"].tolist()


def follow(queue: str, state: str, epochs: int, rate: float, pause: float) -> None:
    """Submits the task, and shows its curve until it has ended."""
    client = duite.Client()
    task = client.submit(
        "train",
        {"epochs": epochs, "rate": rate, "pause": pause},
        queue=queue,
        state=state,
        # So soon the loss of a worker is noticed.
        lease_duration=2,
    )
    print(f"to steer it: duite state set {state} learning_rate=0.001 (or stop=true)", flush=True)
    for event in task.watch_state(keys="losses", interval=0.1):
        if "losses" in event.view:
            show(event.view["losses"])
    result = task.result()
    print(f"\naccuracy {result['accuracy']:.3f} after {result['epochs']} epochs")


def show(losses: list[float], width: int = 60) -> None:
    """A line with the last losses."""
    shown = np.array(losses[-width:])
    levels = (7 * shown / max(losses)).astype(int)
    curve = "".join("▁▂▃▄▅▆▇█"[level] for level in levels)
    print(f"\rloss {shown[-1]:.4f} {curve}", end="", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mode", nargs="?", choices=["work"], help="be a worker")
    parser.add_argument("--queue", default="train")
    parser.add_argument("--state", default=f"training-{uuid.uuid4().hex[:8]}")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--pause", type=float, default=0.2, help="seconds an epoch takes longer")
    given = parser.parse_args()
    if given.mode == "work":
        worker = duite.Worker(queues=[given.queue], concurrency=1)
        worker.add("train", train)
        worker.run()
    else:
        follow(given.queue, given.state, given.epochs, given.rate, given.pause)
