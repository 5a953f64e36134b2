"""The end of a task's log, in its state."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

import pytest

from duite import _own_state, logs
from duite.logs import LogHandler


class Sink:
    """Remembers what was reported."""

    def __init__(self):
        self.reports = []
        self.came = threading.Event()

    def update(self, changes):
        self.reports.append(changes)
        self.came.set()

    @property
    def log(self):
        return self.reports[-1]["log"] if self.reports else None


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def logger(name):
    """A logger of this test's own, whose handlers are closed in the end."""
    logger = logging.getLogger(f"test.{name}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    for handler in logger.handlers[:]:
        handler.close()
        logger.removeHandler(handler)


def add(logger, state, **options):
    """A handler whose clock never comes, unless told otherwise: `flush` reports."""
    handler = LogHandler(state, **{"interval": 3600, **options})
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return handler


def test_lines_are_reported_soon_without_anyone_asking(logger, sink):
    add(logger, sink, interval=0.01)
    logger.info("first %d", 1)
    assert sink.came.wait(20)
    assert sink.log == ["INFO first 1"]


def test_many_lines_make_few_reports_and_the_last_always_comes(logger, sink):
    add(logger, sink, interval=0.05)
    for number in range(2000):
        logger.info("%d", number)
    while not sink.log or sink.log[-1] != "INFO 1999":
        sink.came.clear()
        assert sink.came.wait(20)
    assert len(sink.reports) < 100


def test_the_newest_lines_are_kept_within_both_bounds(logger, sink):
    handler = add(logger, sink, lines=3)
    for number in range(10):
        logger.info("%d", number)
    handler.flush()
    assert sink.log == ["INFO 7", "INFO 8", "INFO 9"]
    small = add(logger, other := Sink(), max_bytes=100)
    for _ in range(10):
        logger.info("ä" * 20)
    small.flush()
    assert 0 < sum(len(line.encode()) for line in other.log) <= 100


def test_one_long_line_is_cut_and_says_so(logger, sink):
    handler = add(logger, sink)
    logger.info("x" * 100_000)
    handler.flush()
    (line,) = sink.log
    assert len(line.encode()) <= logs.LINE_BYTES
    assert line.endswith("bytes)")


def test_the_lines_of_an_exception_are_lines(logger, sink):
    handler = add(logger, sink)
    try:
        raise ValueError("the mesh is broken")
    except ValueError:
        logger.exception("no result")
    handler.flush()
    assert sink.log[0] == "ERROR no result"
    assert sink.log[-1] == "ValueError: the mesh is broken"


def test_a_level_filters_and_a_key_names(logger, sink):
    handler = add(logger, sink, level="WARNING", key="tail")
    logger.info("not this")
    logger.warning("this")
    handler.flush()
    assert sink.reports == [{"tail": ["WARNING this"]}]


def test_nothing_new_is_not_reported_again(logger, sink):
    handler = add(logger, sink)
    logger.info("once")
    handler.flush()
    handler.flush()
    assert len(sink.reports) == 1


def test_what_the_package_itself_logs_is_not_taken_but_failures_of_tasks_are(sink):
    root = logging.getLogger()
    handler = add(root, sink)
    try:
        logging.getLogger("duite").warning("the connection is lost")
        logging.getLogger("duite.push").warning("the connection is lost")
        logging.getLogger("duite.asynchronous").error("Exception raised by task")
        logging.getLogger("duites").warning("another package")
        handler.flush()
        assert sink.log == ["ERROR Exception raised by task", "WARNING another package"]
    finally:
        root.removeHandler(handler)
        handler.close()


def test_a_sink_that_logs_causes_no_recursion(logger):
    class Loud(Sink):
        def update(self, changes):
            super().update(changes)
            logging.getLogger("duite.push").warning("pushed")

    package = logging.getLogger("duite.push")
    handler = add(logger, loud := Loud(), interval=0)
    package.addHandler(handler)
    try:
        logger.info("once")
        handler.flush()
        handler.close()
        assert {tuple(report["log"]) for report in loud.reports} == {("INFO once",)}
    finally:
        package.removeHandler(handler)


def test_threads_log_together(logger, sink):
    handler = add(logger, sink, lines=1000)
    threads = [
        threading.Thread(target=lambda who=who: [logger.info("%d", who) for _ in range(50)])
        for who in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    handler.flush()
    assert len(sink.log) == 400


def test_a_handler_that_is_closed_has_reported_all_and_its_thread_ends(logger, sink):
    before = set(threading.enumerate())  # one of an earlier test may be ending
    handler = add(logger, sink)
    logger.info("last")
    (clock,) = [it for it in set(threading.enumerate()) - before if it.name == "duite-log"]
    handler.close()
    assert sink.log == ["INFO last"]
    clock.join(20)
    assert not clock.is_alive()


def test_a_handler_made_outside_of_tasks_reports_each_record_to_its_task(logger, monkeypatch):
    states = {"a": Sink(), "b": Sink(), "main": None}
    monkeypatch.setattr(logs, "of_task", lambda: states[threading.current_thread().name])
    monkeypatch.setattr(logs, "of_environment", lambda: None)
    monkeypatch.setattr(threading.current_thread(), "name", "main")
    handler = add(logger, None)
    logger.info("of nobody")
    for who in ("a", "b"):
        thread = threading.Thread(name=who, target=lambda: logger.info("in a task"))
        thread.start()
        thread.join(20)
    handler.flush()
    assert [len(states[who].log) for who in ("a", "b")] == [1, 1]


def test_a_handler_made_in_a_task_takes_records_of_no_other_task(logger, monkeypatch):
    own, other = Sink(), Sink()
    current = [own]
    monkeypatch.setattr(logs, "of_task", lambda: current[0])
    handler = add(logger, None)
    for current[0] in (own, other, None):
        logger.info(
            "in %s", "none" if current[0] is None else "own" if current[0] is own else "other"
        )
    handler.flush()
    assert own.log == ["INFO in own", "INFO in none"]
    assert not other.reports


def test_bounds_that_are_none_are_refused():
    with pytest.raises(ValueError, match="lines=0"):
        LogHandler(Sink(), lines=0)


def test_outside_of_tasks_nothing_is_reported_and_nothing_fails(logger, monkeypatch):
    for variable in ("DUITE_STATE", "DUITE_TASK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(_own_state, "_of_environment", None)
    handler = add(logger, None)
    logger.info("to nobody")
    handler.flush()


def test_a_program_that_a_worker_runs_shows_its_last_line_even_when_it_ends_at_once(
    server, name, wait_for_state
):
    environment = {**os.environ, "DUITE_ADDR": server.address, "DUITE_STATE": name}
    program = (
        "import logging\nfrom duite.logs import LogHandler\n"
        "logging.basicConfig(level='INFO', handlers=[LogHandler()])\n"
        "logging.info('begun')\nlogging.info('done')\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    values = wait_for_state(server.address, name, lambda values: len(values.get("log", ())) == 2)
    assert [line.split(": ")[-1] for line in values["log"]] == ["begun", "done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_made_by_fork_goes_on_logging(server, name, wait_for_state):
    environment = {**os.environ, "DUITE_ADDR": server.address, "DUITE_STATE": name}
    program = (
        "import logging, os, time\nfrom duite.logs import LogHandler\n"
        "handler = LogHandler(interval=0.01)\n"
        "logging.basicConfig(level='INFO', handlers=[handler])\n"
        "logging.info('parent')\nhandler.flush()\nhandler.wait(time.monotonic() + 20)\n"
        "if os.fork():\n    assert os.wait()[1] == 0\n"
        "else:\n    logging.info('child')\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)
    wait_for_state(server.address, name, lambda values: "child" in str(values.get("log")))


def test_a_tasks_last_lines_are_there_when_it_has_ended(server, name):
    import duite
    from duite.client import Client

    logger = logging.getLogger(f"test.{name}")
    logger.setLevel(logging.INFO)
    handler = LogHandler(interval=3600)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    worker = duite.Worker(server.address, queues=[name])

    @worker.task("talk")
    def talk(task):
        for number in range(3):
            logger.info("%s line %d", task.id, number)

    worker.start()
    try:
        with Client(server.address) as client:
            for number in range(2):
                client.submit("talk", queue=name, task_id=f"{name}-{number}"[-100:]).result(30)
            for number in range(2):
                task = f"{name}-{number}"[-100:]
                assert client.get_state(task)["log"] == [f"{task} line {n}" for n in range(3)]
    finally:
        worker.stop()
        logger.removeHandler(handler)
        handler.close()
