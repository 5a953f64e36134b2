"""A task on the screen."""

from __future__ import annotations

import builtins
import io
import threading

import pytest

from duite import show as module
from duite._show_view import elapsed, news, picture
from duite._values import Blob
from duite.errors import NotFound
from duite.show import show
from duite.v1 import task_service_pb2

Status = task_service_pb2.Task.Status


def task(status=Status.STATUS_RUNNING, **fields):
    """A task that a worker runs since 1000 s."""
    made = task_service_pb2.Task(
        name="namespaces/default/tasks/t1", type="train", status=status, attempt=2,
        worker_id="gpu-1", **fields,
    )  # fmt: skip
    made.policy.max_attempts = 3
    made.start_time.seconds = 1000
    return made


def failed(message="vertex 7 is in no face"):
    made = task(Status.STATUS_FAILED)
    made.end_time.seconds = 1065
    made.failure.type, made.failure.message = "MeshError", message
    made.failure.stack_trace = 'Traceback\n  File "a.py", line 1, in mesh\n'
    made.failure.cause.type, made.failure.cause.message = "OSError", "disk is full"
    return made


def test_a_picture_has_status_attempt_worker_and_time():
    shown = picture(task(), {}, 1012.34)
    assert (shown.title, shown.status, shown.terminal) == ("t1 (train)", "running", False)
    assert dict(shown.facts) == {"attempt": "2 of 3", "worker": "gpu-1", "elapsed": "12.3 s"}


def test_the_clock_stops_at_the_end_and_never_goes_back():
    assert dict(picture(failed(), {}, 9999).facts)["elapsed"] == "1:05"
    # This machine's clock may be behind the server's.
    assert dict(picture(task(), {}, 900).facts)["elapsed"] == "0.0 s"
    assert [elapsed(59.94), elapsed(60), elapsed(3723)] == ["59.9 s", "1:00", "1:02:03"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.25, 0.25), (1, 1.0), (0, 0.0), (1.5, None), (True, None), ("x", None)]
)
def test_a_progress_is_a_number_from_0_to_1(value, shown):
    assert picture(task(), {"progress": value}, 1000).progress == shown


def test_keys_are_sorted_short_and_bounded_and_the_log_is_apart():
    values = {
        "loss": 0.123456789, "log": ["a", "b"], "preview": Blob(b"xxx", "image/png"),
        "note": "long " * 100, "raw": b"xx",
    }  # fmt: skip
    shown = picture(task(), values, 1000)
    assert [key for key, _ in shown.keys] == ["loss", "note", "preview", "raw"]
    said = dict(shown.keys)
    assert (said["loss"], said["preview"], said["raw"]) == (
        "0.123457",
        "image/png, 3 bytes",
        "2 bytes",
    )
    assert len(said["note"]) <= 100
    assert shown.log == ("a", "b")
    many = picture(task(), {f"k{number}": 1 for number in range(100)}, 1000)
    assert len(many.keys) + many.keys_left_out == 100
    assert many.keys_left_out > 0


def test_what_a_terminal_would_obey_is_not_passed_on():
    shown = picture(failed("\x1b[2Jgone"), {"x": "\x1b]0;title\x07", "log": ["\rover"]}, 1000)
    for text in (dict(shown.keys)["x"], *shown.log, shown.failure, shown.stack):
        assert all(character.isprintable() or character == "\n" for character in text)


def test_a_failure_is_told_with_its_causes():
    shown = picture(failed(), {}, 2000)
    assert shown.failure == "MeshError: vertex 7 is in no face\ncaused by OSError: disk is full"
    assert shown.terminal


def test_in_lines_each_thing_is_said_once():
    first = picture(task(), {"progress": 0.11, "log": ["a", "b"]}, 1000)
    assert news(None, first) == [
        "t1 (train): running (attempt 2 of 3, worker gpu-1, elapsed 0.0 s)",
        "t1 (train): 11%",
        "a",
        "b",
    ]
    second = picture(task(), {"progress": 0.19, "log": ["b", "c"]}, 1001)
    assert news(first, second) == ["c"]
    third = picture(task(), {"progress": 0.2, "log": ["b", "c"]}, 1001)
    assert news(second, third) == ["t1 (train): 20%"]
    last = picture(failed(), {"progress": 0.2, "log": ["b", "c"]}, 1001)
    said = news(third, last)
    assert said[0].startswith("t1 (train): failed")
    assert said[1] == last.failure
    assert said[2:] == ["  progress = 0.2"]


def test_a_log_that_has_moved_on_altogether_is_said_as_a_whole():
    before, now = picture(task(), {"log": ["a"]}, 1000), picture(task(), {"log": ["x", "y"]}, 1000)
    assert news(before, now) == ["x", "y"]


class Known:
    """As much of a Task as is needed."""

    def __init__(self, proto):
        self.proto, self.name = proto, proto.name


class Event:
    def __init__(self, changes=(), view=None, removed=()):
        self.changes, self.view, self.removed = changes, view or {}, removed


class Watch:
    """Gives events, then waits to be closed."""

    def __init__(self, events):
        self._events, self.closed = events, threading.Event()

    def __iter__(self):
        yield from self._events
        self.closed.wait(30)

    def close(self):
        self.closed.set()


class FakeClient:
    """A client whose task runs, and then has ended."""

    def __init__(self, states, task_events, state_events, values=None):
        self._states = list(states)
        self.watches = [Watch(task_events), Watch(state_events)]
        self._values = values or {}

    def get(self, name):
        return Known(self._states.pop(0) if len(self._states) > 1 else self._states[0])

    def get_state(self, name):
        assert name == "namespaces/default/states/t1"
        return self._values

    def watch_tasks(self, names):
        assert names == ["namespaces/default/tasks/t1"]
        return self.watches[0]

    def watch_state(self, name, **options):
        assert name == "namespaces/default/states/t1"
        return self.watches[1]


def test_it_is_shown_until_the_end_with_the_last_values_and_the_watches_are_closed():
    def ends():
        client.drawn.wait(30)
        yield Event([Known(failed())])

    client = FakeClient(
        [task(), failed()], ends(), [Event(view={"loss": 2})], {"loss": 1, "log": ["bye"]}
    )
    client.drawn = threading.Event()
    out = io.StringIO()
    write = out.write

    def written(text):
        client.drawn.set()
        return write(text)

    out.write = written
    show(client, "t1", file=out)
    said = out.getvalue().splitlines()
    assert said[0].startswith("t1 (train): running")
    assert "  loss = 1" in said
    assert "bye" in said
    assert "MeshError: vertex 7 is in no face" in said
    assert all(watch.closed.is_set() for watch in client.watches)


def test_a_task_that_is_deleted_while_it_is_shown_is_an_error():
    client = FakeClient([task()], [Event(removed=["namespaces/default/tasks/t1"])], [])
    with pytest.raises(NotFound, match="t1 was deleted"):
        show(client, "t1", file=io.StringIO())
    assert all(watch.closed.is_set() for watch in client.watches)


def test_what_a_watch_fails_with_is_raised():
    def fails():
        raise ValueError("no such thing")
        yield

    client = FakeClient([task()], fails(), [])
    with pytest.raises(ValueError, match="no such thing"):
        show(client, "t1", file=io.StringIO())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_rich_draws_a_table():
    pytest.importorskip("rich")
    out = Terminal()
    values = {"progress": 0.5, "loss": 0.25, "log": ["[red]not markup[/red]"]}
    show(FakeClient([failed()], [], [], values), "t1", file=out)
    for text in ("failed", "gpu-1", "50.0%", "loss", "[red]not markup[/red]", "MeshError", "a.py"):
        assert text in out.getvalue()


def test_without_rich_a_terminal_has_lines(monkeypatch):
    real = builtins.__import__

    def without(name, *given, **named):
        if name.startswith("rich") or name == "duite._show_rich":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    out = Terminal()
    show(FakeClient([failed()], [], []), "t1", file=out)
    assert "\x1b" not in out.getvalue()
    assert "t1 (train): failed" in out.getvalue()


def test_pictures_are_bounded_in_rate(monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    events = [Event([Known(task())]) for _ in range(50)] + [Event([Known(failed())])]
    show(FakeClient([task(), failed()], events, []), "t1", file=io.StringIO())
    assert all(pause == 0.1 for pause in pauses)


def test_a_real_task_is_followed_to_its_end(server, name):
    import duite
    from duite.client import Client

    worker = duite.Worker(server.address, queues=[name])
    go = threading.Event()

    @worker.task("train")
    def train(task):
        task.state.update({"progress": 0.5, "log": ["begun"]})
        assert go.wait(30)
        task.state.update({"progress": 1.0, "loss": 0.25, "log": ["begun", "done"]})
        raise duite.PermanentError("it was for show")

    class Screen(io.StringIO):
        def write(self, text):
            if "begun" in text:
                go.set()  # the middle is seen while the task runs
            return super().write(text)

    out = Screen()
    worker.start()
    try:
        with Client(server.address) as client:
            task = client.submit("train", queue=name)
            client.show(task, file=out)
    finally:
        worker.stop()
    said = out.getvalue()
    assert said.index("50%") < said.index("begun") < said.index("done")
    assert "PermanentError: it was for show" in said
    assert "  loss = 0.25" in said


def test_a_task_that_is_not_there_is_an_error(server, name):
    from duite.client import Client

    with Client(server.address) as client, pytest.raises(NotFound):
        client.show(name, file=io.StringIO())
