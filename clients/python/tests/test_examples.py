"""The examples, run as their readers run them; what they did is looked up at the server."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import conftest
import pytest

import duite

EXAMPLES = conftest.ROOT / "examples" / "python"
SECONDS = 60


class Programs:
    """Starts programs of the examples, and ends those that still run."""

    def __init__(self, address: str, folder: pathlib.Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("DUITE_", "OTEL_"))},
            "DUITE_ADDR": address,
            "DUITE": conftest.binary(),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Starts `python` with an example of that name, or another program."""
        if command[0].endswith(".py"):
            command = (sys.executable, str(EXAMPLES / command[0]), *command[1:])
        self._started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                text=True,
                cwd=self.folder,
                env=self.environment,
            )
        )
        return self._started[-1]

    def run(self, *command: str) -> str:
        """Runs it to its end, which has to be a good one; gives what it wrote."""
        return self.ended(self.start(*command))

    def ended(self, process: subprocess.Popen[str]) -> str:
        """What it wrote, once it has ended well."""
        written, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, written
        return written

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=SECONDS)


@pytest.fixture
def programs(server, tmp_path):
    """The examples, with the server that they find by `DUITE_ADDR`."""
    it = Programs(server.address, tmp_path)
    yield it
    it.close()


@pytest.fixture
def client(server):
    """A client of the same server."""
    with duite.Client(server.address) as it:
        yield it


def the_task(client, queue):
    """The one task of that queue; None where there is none yet."""
    found = list(client.list(queues=queue))
    assert len(found) < 2
    return found[0] if found else None


def is_run_by(process, task):
    """Whether that worker runs the task now."""
    running = task.status is duite.TaskStatus.RUNNING
    return running and task.worker_id.endswith(f"-{process.pid}")


# sweep.py


def test_a_thousand_tasks_of_several_workers_add_up_though_one_of_them_is_killed(
    programs, client, name
):
    queue = name[-40:]
    workers = [programs.start("sweep.py", "work", "--queue", queue) for _ in range(3)]
    sweep = programs.start("sweep.py", "--queue", queue, "--pause", "0.03")
    with client.watch_tasks(queues=queue) as watch:
        for event in watch:
            tasks = event.view.values()
            busy = any(is_run_by(workers[0], task) for task in tasks)
            if busy and sum(task.is_terminal for task in tasks) >= 100:
                break
    workers[0].kill()
    written = programs.ended(sweep)
    assert "1000 rows, 0 failed, 785387 points inside, exact: 785387" in written
    ended = list(client.list(queues=queue))
    assert len(ended) == 1000
    # The killed one had some in hand, which others did again.
    assert any(task.attempt == 2 for task in ended)


# train.py


@pytest.fixture
def training(programs, client, name):
    """Gives `training(epochs)`: the worker that trains and the one that follows, once the curve has
    begun; and the queue's and the state's name. A second worker waits."""
    pytest.importorskip("sklearn")
    name = name[-40:]

    def start(epochs):
        workers = [programs.start("train.py", "work", "--queue", name) for _ in range(2)]
        follower = programs.start(
            *("train.py", "--queue", name, "--state", name),
            *("--epochs", str(epochs), "--pause", "0.05"),
        )
        until(client, name, lambda view: view.get("epoch", 0) >= 5)
        task = the_task(client, name)
        return next(worker for worker in workers if is_run_by(worker, task)), follower

    return start, name


def until(client, state, holds):
    """Watches a state until that holds of it."""
    with client.watch_state(state) as watch:
        while not holds(watch.next(SECONDS).view):
            pass


def test_a_training_goes_on_from_its_checkpoint_when_its_worker_is_killed(
    programs, client, training
):
    start, name = training
    worker, follower = start(epochs=40)
    worker.kill()
    written = programs.ended(follower)
    task = client.get(the_task(client, name).name)
    assert task.attempt == 2
    assert task.output["resumed_at"] >= 4
    assert task.output["epochs"] == len(client.get_state(name)["losses"]) == 40
    assert task.output["accuracy"] > 0.9
    assert "accuracy 0.9" in written
    # The curve was shown while it grew.
    assert written.count("loss 0.") > 5


def test_a_training_is_steered_and_stopped_by_whoever_sets_its_state(programs, client, training):
    start, name = training
    _, follower = start(epochs=100_000)
    epoch = client.get_state(name)["epoch"]
    client.update_state(name, {"learning_rate": 0.002})
    until(client, name, lambda view: view["epoch"] >= epoch + 5)
    client.update_state(name, {"stop": True})
    assert "accuracy 0.9" in programs.ended(follower)
    output = client.get(the_task(client, name).name).output
    assert epoch + 5 <= output["epochs"] < 100_000
    assert output["rate"] == 0.002


# pipeline.sh


def test_the_steps_of_a_pipeline_wait_for_each_other(programs, client, name):
    queue = programs.environment["PIPELINE_QUEUE"] = name[-40:]
    programs.start(conftest.binary(), "worker", "--allow-exec", "--queue", queue)
    written = programs.run("bash", str(EXAMPLES / "pipeline.sh"), "1000")
    assert "168 primes" in written
    state = client.get_state(written.splitlines()[0].removeprefix("state: "))
    assert {key: state[key] for key in ("primes", "parts", "progress", "phase", "result")} == {
        "primes": 168,
        "parts": 4,
        "progress": 1,
        "phase": "done",
        "result": "168 primes",
    }
    first, *parts, last = sorted(client.list(queues=queue), key=lambda task: task.create_time)
    assert len(parts) == 4
    assert first.end_time <= min(part.start_time for part in parts)
    assert max(part.end_time for part in parts) <= last.start_time


def test_a_step_that_fails_ends_the_pipeline(programs, client, name):
    queue = programs.environment["PIPELINE_QUEUE"] = name[-40:]
    programs.start(conftest.binary(), "worker", "--allow-exec", "--queue", queue)
    pipeline = programs.start("bash", str(EXAMPLES / "pipeline.sh"), "many")
    written, _ = pipeline.communicate(timeout=SECONDS)
    assert pipeline.returncode != 0
    assert "primes" not in written
    statuses = [task.status.name for task in client.list(queues=queue)]
    assert sorted(statuses) == ["FAILED"] * 4 + ["SUCCEEDED"]
