"""The examples, run as their readers run them; what they did is looked up at the server."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
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

    def start(self, *command: str, stderr: int | None = None) -> subprocess.Popen[str]:
        """Starts `python` with an example of that name, or another program."""
        if command[0].endswith(".py"):
            command = (sys.executable, str(EXAMPLES / command[0]), *command[1:])
        self._started.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
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


# progress_api


def start_service(programs):
    """The web service's address."""
    for needed in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(needed)
    folder = str(EXAMPLES / "progress_api")
    service = programs.start(
        *(sys.executable, "-m", "uvicorn", "app:app", "--app-dir", folder),
        *("--port", "0", "--no-use-colors"),
        stderr=subprocess.STDOUT,
    )
    for line in service.stdout:
        if "running on " in line:
            return line.split("running on ")[1].split()[0]
    raise AssertionError("the service has not started")


@contextlib.contextmanager
def events_of(service, job, last_id=""):
    """What a browser is told of a job: `(name, id, data)` of each event."""
    import httpx

    headers = {"Last-Event-ID": last_id} if last_id else {}
    url = f"{service}/jobs/{job}/events"
    with httpx.stream("GET", url, headers=headers, timeout=SECONDS) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield read_events(answer.iter_lines())


def read_events(lines):
    fields = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        yield fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])
        fields = {}


def test_a_browser_sees_a_jobs_progress_and_goes_on_where_it_lost_the_connection(programs):
    service = start_service(programs)
    import httpx

    assert "EventSource" in httpx.get(service).text
    assert httpx.get(f"{service}/jobs/nix/events").status_code == 404
    job = httpx.post(f"{service}/jobs?steps=30").json()["id"]
    programs.start("progress_api/worker.py")
    state, last_id = {}, ""
    with events_of(service, job) as events:
        for _, id, changes in events:
            state.update(changes)
            last_id = id
            if state.get("progress_step", 0) >= 3:
                break
    assert state["title"] == "Rendering 30 frames"

    with events_of(service, job, last_id) as events:
        seen = list(events)
    ids = [id for _, id, _ in seen if id]
    assert last_id not in ids
    # Only what has changed since: not all of the state again.
    assert not any("title" in changes for _, id, changes in seen if id)
    steps = [changes["progress_step"] for _, id, changes in seen if id]
    assert steps == sorted(steps)
    assert min(steps) > state["progress_step"]
    assert seen[-2][2]["progress"] == 1
    assert seen[-1][0] == "end"
    assert seen[-1][2] == {"status": "SUCCEEDED", "output": {"frames": 30}}


def test_a_job_is_stopped_from_the_browser(programs):
    service = start_service(programs)
    import httpx

    programs.start("progress_api/worker.py")
    job = httpx.post(f"{service}/jobs?steps=10000").json()["id"]
    with events_of(service, job) as events:
        for name, _, changes in events:
            if changes.get("progress_step") == 1:
                assert httpx.delete(f"{service}/jobs/{job}").status_code == 202
            if name == "end":
                assert changes["status"] == "CANCELLED"
                return
    raise AssertionError("the stream ended without a word")


def test_a_browser_that_leaves_ends_its_watch(own_server, tmp_path):
    programs = Programs(own_server.address, tmp_path)
    try:
        service = start_service(programs)
        import httpx

        job = httpx.post(f"{service}/jobs").json()["id"]
        assert active_watches(own_server) == 0
        with events_of(service, job):
            own_server.wait_until(lambda: active_watches(own_server) == 2, what="its watches")
        own_server.wait_until(lambda: active_watches(own_server) == 0, what="their end")
    finally:
        programs.close()


def active_watches(server):
    """How many streams of the server's watch states and tasks."""
    import httpx

    found = 0
    for line in httpx.get(f"{server.admin}/metrics").text.splitlines():
        if line.startswith("duite_streams_active{") and (
            "/WatchState" in line or "/WatchTasks" in line
        ):
            found += int(line.split()[-1])
    return found


# trame_app


@pytest.fixture
async def app(programs, name, monkeypatch):
    """The trame app in this process, without a browser, and what its page was told."""
    for needed in ("trame.ui.vuetify3", "PIL", "numpy"):
        pytest.importorskip(needed)
    monkeypatch.setenv("DUITE_ADDR", programs.environment["DUITE_ADDR"])
    spec = importlib.util.spec_from_file_location("example_app", EXAMPLES / "trame_app" / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    it = module.App(name)
    it.told = {}
    for key in ("progress", "loss", "preview", "status", "running"):
        it.told[key] = []
        it.state.change(key)(lambda key=key, **values: it.told[key].append(values[key]))
    it.server.start(exec_mode="task", port=0)
    assert await it.server.ready
    programs.start("trame_app/worker.py")
    yield it
    await it.server.stop()


async def told(app, key, holds):
    """Waits until the page was told such a value."""

    async def wait():
        while not any(holds(value) for value in app.told[key] if value is not None):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), SECONDS)


async def test_a_trame_app_shows_what_a_worker_elsewhere_does(app):
    with app.state:
        app.state.update({"steps": 40, "pause": 0.02})
        app.ctrl.start()
    await told(app, "status", lambda status: status == "succeeded")
    assert app.told["running"] == [False, True, False]
    assert app.told["status"] == ["", "waiting for a worker", "painting", "succeeded"]
    assert app.told["progress"][-1] == app.state.progress == 1
    # Live, and in order.
    assert len(app.told["progress"]) > 3
    assert app.told["progress"] == sorted(app.told["progress"])
    losses = [loss for loss in app.told["loss"] if loss is not None]
    assert losses == sorted(losses, reverse=True)
    assert app.state.losses[-1] == app.state.loss
    assert len(app.state.losses) == 40
    assert app.state.preview.startswith("data:image/png;base64,")


async def test_the_stop_button_of_a_trame_app_stops_the_worker(app):
    with app.state:
        app.state.update({"steps": 100_000})
        app.ctrl.start()
    await told(app, "loss", lambda loss: loss < 0.4)
    assert app.state.running
    app.ctrl.stop()
    await told(app, "status", lambda status: status == "cancelled")
    assert not app.state.running
    # It can be started again.
    with app.state:
        app.state.update({"steps": 5, "pause": 0})
        app.ctrl.start()
    await told(app, "status", lambda status: status == "succeeded")


def test_the_table_of_examples_names_all_of_them():
    folder = EXAMPLES.parent
    table = (folder / "README.md").read_text()
    paths = [*folder.glob("*.rs"), *EXAMPLES.glob("*.sh"), *EXAMPLES.rglob("*.py")]
    of_apps = [path.with_name("app.py") if path.name == "worker.py" else path for path in paths]
    for path in of_apps:
        assert f"]({path.relative_to(folder)})" in table
