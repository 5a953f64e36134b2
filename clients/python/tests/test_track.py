"""A progress bar that also reports."""

from __future__ import annotations

import builtins
import importlib
import io
import itertools
import os
import subprocess
import sys

import pytest

from duite import track

# The name in the package is the function's.
module = importlib.import_module("duite.track")


class Sink:
    """Remembers what was reported, and at what time."""

    def __init__(self, clock=None):
        self.reports, self.times, self._clock = [], [], clock

    def update(self, changes):
        self.reports.append(dict(changes))
        if self._clock:
            self.times.append(self._clock.now)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_items_come_through_as_they_are_and_the_end_is_always_reported():
    sink = Sink()
    items = [object(), None, "x"]
    assert list(track(items, desc="epoch 1", state=sink)) == items
    assert sink.reports[0]["progress"] == 0
    last = sink.reports[-1]
    assert (last["progress"], last["progress_step"], last["progress_total"]) == (1.0, 3, 3)
    assert (last["progress_eta"], last["progress_desc"]) == (0.0, "epoch 1")


def test_reports_are_at_least_a_tenth_of_a_second_apart_but_for_the_last(clock):
    sink = Sink(clock)
    for _ in track(range(1000), state=sink):
        clock.now += 0.011
    gaps = [after - before for before, after in itertools.pairwise(sink.times)]
    assert min(gaps[:-1]) >= 0.1
    assert 95 <= len(sink.reports) <= 102
    assert sink.reports[-1]["progress"] == 1.0
    parts = [report["progress"] for report in sink.reports]
    assert parts == sorted(parts)


def test_rate_and_time_left_follow_the_speed_of_late(clock):
    sink = Sink(clock)
    for step in track(range(1000), state=sink):
        clock.now += 0.01 if step < 500 else 0.1
    slow = sink.reports[-2]
    assert 9.9 < slow["progress_rate"] < 11
    assert slow["progress_eta"] == pytest.approx(
        (1000 - slow["progress_step"]) / slow["progress_rate"]
    )


def test_a_generator_without_a_length_tells_its_steps_and_at_the_end_its_total():
    sink = Sink()
    assert list(track((n * n for n in range(3)), state=sink)) == [0, 1, 4]
    first, last = sink.reports[0], sink.reports[-1]
    assert (first["progress"], first["progress_total"], first["progress_eta"]) == (None,) * 3
    assert (last["progress"], last["progress_step"], last["progress_total"]) == (1.0, 3, 3)


def test_an_endless_iterator_is_taken_lazily():
    seen = []

    def source():
        for number in itertools.count():
            seen.append(number)
            yield number

    for number in track(source(), total=10, state=Sink()):
        if number == 4:
            break
    assert seen == [0, 1, 2, 3, 4]


def test_a_loop_that_is_left_early_reports_how_far_it_came():
    sink = Sink()

    def leave():
        for number in track(range(10), state=sink):
            if number == 4:
                raise ValueError(number)

    with pytest.raises(ValueError, match="4"):
        leave()
    assert (sink.reports[-1]["progress"], sink.reports[-1]["progress_step"]) == (0.4, 4)


def test_a_loop_that_goes_on_counts_what_was_done_before(clock):
    sink = Sink()
    for _ in track(range(60, 100), state=sink, initial=60):
        clock.now += 0.5
    first, last = sink.reports[0], sink.reports[-1]
    assert [first[f"progress{key}"] for key in ("", "_step", "_total")] == [0.6, 60, 100]
    assert (last["progress"], last["progress_step"]) == (1.0, 100)
    # It is as fast as it goes now.
    assert sink.reports[1]["progress_rate"] == 2
    assert sink.reports[1]["progress_eta"] == 19.5
    list(track(iter(range(5)), total=7, state=sink, initial=2))
    assert (sink.reports[-1]["progress_step"], sink.reports[-1]["progress_total"]) == (7, 7)
    list(track(iter(range(5)), state=sink, initial=2))
    assert sink.reports[-1]["progress_total"] == 7


def test_nothing_at_all_is_done_at_once():
    sink = Sink()
    assert list(track([], state=sink)) == []
    assert sink.reports[-1]["progress"] == 1.0


def test_more_items_than_expected_never_go_beyond_one():
    sink = Sink()
    list(track(range(5), total=2, state=sink))
    assert all(report["progress"] <= 1 for report in sink.reports)


def test_loops_in_loops_have_keys_of_their_own():
    sink = Sink()
    for _ in track(range(2), key="epoch", state=sink):
        for _ in track(range(3), key="batch", state=sink):
            pass
    keys = {key for report in sink.reports for key in report}
    assert {"epoch", "epoch_step", "batch", "batch_step"} <= keys
    assert "progress" not in keys


def test_outside_of_tasks_and_terminals_it_says_nothing(monkeypatch, capsys):
    for name in ("DUITE_STATE", "DUITE_TASK"):
        monkeypatch.delenv(name, raising=False)
    assert list(track(range(3))) == [0, 1, 2]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_on_a_terminal_tqdm_draws(monkeypatch):
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    list(track(range(3, 7), desc="mesh", initial=3))
    assert "mesh: 100%" in terminal.getvalue()
    assert "7/7" in terminal.getvalue()


def test_without_tqdm_a_plain_bar_is_drawn(monkeypatch):
    real = builtins.__import__

    def without(name, *given, **named):
        if name.startswith("tqdm"):
            raise ImportError(name)
        return real(name, *given, **named)

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(builtins, "__import__", without)
    list(track(range(3, 7), desc="mesh", initial=3))
    list(track(iter(range(7)), bar=True))
    drawn = terminal.getvalue().split("\n")
    assert drawn[0].split("\r")[-1].startswith("\x1b[Kmesh: [####################] 7/7 it, ")
    assert drawn[1].split("\r")[-1].startswith("\x1b[K7 it, ")


def test_a_program_that_a_worker_runs_reports_to_its_state(server, name, wait_for_state):
    environment = {**os.environ, "DUITE_ADDR": server.address, "DUITE_STATE": name}
    program = "from duite.track import track\nfor _ in track(range(4)): pass"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    values = wait_for_state(server.address, name, lambda values: values.get("progress") == 1.0)
    assert (values["progress_step"], values["progress_total"]) == (4, 4)


def test_a_named_state_is_reported_to(server, name, wait_for_state, monkeypatch):
    monkeypatch.setenv("DUITE_ADDR", server.address)
    list(track(range(4), state=name, key="work"))
    wait_for_state(server.address, name, lambda values: values.get("work") == 1.0)


def test_inside_of_a_task_its_state_is_reported_to(server, name):
    import duite
    from duite.client import Client

    worker = duite.Worker(server.address, queues=[name])

    @worker.task("work")
    def work(task):
        return sum(track(range(5)))

    worker.start()
    try:
        with Client(server.address) as client:
            task = client.submit("work", queue=name)
            assert task.result(30) == 10
            values = client.get_state(task.id)
            assert (values["progress"], values["progress_step"]) == (1.0, 5)
    finally:
        worker.stop()
