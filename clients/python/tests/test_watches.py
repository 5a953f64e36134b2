"""Watches of the synchronous client against the real server, also one that is killed."""

import gc
import logging
import os
import threading
import time
import weakref

import pytest
from conftest import wait_until

import duite
from duite import TaskStatus, _connection, errors
from duite._streams import Ended, StreamReader
from duite._watch_core import Plan
from duite.watches import StateKind


@pytest.fixture
def client(server):
    with duite.Client(server.address) as it:
        yield it


def test_a_state_is_followed(client, name):
    with client.watch_state(name) as watch:
        # One that is not there yet is followed all the same.
        assert dict(watch.next(10).view) == {}
        client.update_state(name, {"lr": 0.1, "list": [1, {"a": None}], "blob": b"x"})
        event = watch.next(10)
        assert dict(event.view) == {"lr": 0.1, "list": [1, {"a": None}], "blob": b"x"}
        assert [change.key for change in event.changes] == ["lr", "list", "blob"]
        assert event.view.entry("lr").mod_revision == event.revision == event.view.revision
        client.update_state(name, delete="lr")
        event = next(watch)
        assert [(change.key, change.deleted) for change in event.changes] == [("lr", True)]
        assert (event.folded_commits, "lr" in event.view) == (1, False)
        assert watch.view is event.view


def test_only_the_keys_asked_for_come(client, name):
    client.update_state(name, {"loss": 1, "img/a": 2, "img/b": 3, "other": 4})
    watch = client.watch_state(name, keys="loss", prefixes=["img/"])
    assert dict(next(watch).view) == {"loss": 1, "img/a": 2, "img/b": 3}


def test_a_large_value_comes_as_a_stub_to_be_fetched(client, name):
    client.update_state(name, {"small": 1, "big": duite.Blob(b"x" * 100_000, "image/png")})
    big = next(client.watch_state(name)).view["big"]
    assert isinstance(big, duite.LargeValue)
    assert (big.content_type, big.size > 100_000, len(big.sha256)) == ("image/png", True, 32)
    assert big.fetch() == duite.Blob(b"x" * 100_000, "image/png")
    whole = next(client.watch_state(name, inline_limit=1 << 20)).view["big"]
    assert len(whole.data) == 100_000
    client.update_state(name, delete=["big"])
    with pytest.raises(errors.NotFound):
        big.fetch()


def test_a_watch_goes_on_from_a_position(client, name):
    before = client.update_state(name, {"a": 1})
    client.update_state(name, {"b": 2})
    assert dict(next(client.watch_state(name, start=before)).view) == {"b": 2}
    now = client.get_state(name).position
    same = client.watch_state(name, start=now).next(10)
    assert (list(same.changes), dict(same.view)) == ([], {})
    live = client.watch_state(name, updates_only=True)
    assert dict(live.next(10).view) == {}


def test_the_interval_folds_what_changes_meanwhile(client, name):
    watch = client.watch_state(name, interval=0.2)
    next(watch)
    for n in range(50):
        client.update_state(name, {"n": n})
    folded = 0
    events = 0
    while watch.view.get("n") != 49:
        folded += watch.next(10).folded_commits
        events += 1
    assert folded == 50
    assert events < 50


def test_nothing_new_in_time_is_a_timeout_and_loses_nothing(client, name):
    watch = client.watch_state(name)
    next(watch)
    with pytest.raises(errors.Timeout):
        watch.next(0.05)
    client.update_state(name, {"a": 1})
    assert dict(watch.next(10).view) == {"a": 1}
    assert watch.reconnects == 0


def test_closing_from_another_thread_ends_the_iteration(client, name):
    watch = client.watch_state(name)
    next(watch)
    rest = []
    following = threading.Thread(target=lambda: rest.extend(watch))
    following.start()
    watch.close()
    following.join(10)
    assert not following.is_alive()
    assert rest == []
    assert watch.next() is None


def test_closing_the_client_ends_its_watches(server, name):
    client = duite.Client(server.address)
    watch = client.watch_state(name)
    next(watch)
    client.close()
    assert list(watch) == []


def readers() -> int:
    return sum(thread.name == "duite-watch" for thread in threading.enumerate())


def test_a_watch_that_is_dropped_ends_its_stream(client, name):
    before = readers()
    for _ in client.watch_state(name):
        break
    gc.collect()
    wait_until(lambda: readers() <= before, what="the end of the reader")


def test_a_wrong_watch_raises_and_is_over(client):
    watch = client.watch_state("s", keys=["x" * 500])
    with pytest.raises(errors.InvalidArgument) as wrong:
        next(watch)
    assert wrong.value.reason == "FIELD_INVALID"
    assert list(watch) == []


def test_tasks_are_followed(client, name):
    first = client.submit("work", queue=name)
    watch = client.watch_tasks(queues=name)
    assert [task.name for task in next(watch).changes] == [first.name]
    second = client.submit("work", queue=name)
    event = watch.next(10)
    assert [task.name for task in event.changes] == [second.name]
    assert set(event.view) == {first.name, second.name}
    first.cancel()
    assert watch.next(10).view[first.name].status is TaskStatus.CANCELLED


def test_a_task_that_matches_no_more_is_removed(client, name):
    handle = client.submit("work", queue=name)
    watch = client.watch_tasks(queues=name, status="queued")
    next(watch)
    handle.cancel()
    (removed,) = watch.next(10).removed
    assert (removed.name, removed.last_status) == (handle.name, TaskStatus.CANCELLED)
    assert not removed.deleted
    assert len(watch.view) == 0


def test_a_watch_ends_when_so_many_tasks_have_ended(client, name):
    handles = [client.submit("work", queue=name) for _ in range(2)]
    watch = client.watch_tasks(queues=name, until_terminal=2)
    next(watch)
    for handle in handles:
        handle.cancel()
    assert all(task.is_terminal for event in watch for task in event.changes)
    assert watch.next() is None


def test_a_killed_server_is_warned_of_once_and_the_watch_goes_on(own_server, name, caplog):
    caplog.set_level(logging.INFO, "duite")
    client = duite.Client(own_server.address)
    watch = client.watch_state(name)
    next(watch)
    client.update_state(name, {"n": 1})
    copy = {change.key: change.value for change in watch.next(10).changes}
    own_server.kill()
    with pytest.raises(errors.Timeout):
        watch.next(1.5)
    assert watch.view["n"] == 1
    own_server.start()
    client.update_state(name, {"n": 2, "m": 3})
    while copy != {"n": 2, "m": 3}:
        copy.update((change.key, change.value) for change in watch.next(20).changes)
    assert dict(watch.view) == copy
    assert watch.reconnects >= 1
    # The return is told once frames follow, which the line above has waited for.
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"], caplog.text
    assert own_server.address in caplog.records[0].getMessage()


def test_a_server_that_stops_in_order_is_waited_for(own_server, name):
    client = duite.Client(own_server.address)
    watch = client.watch_state(name)
    next(watch)
    own_server.stop()
    own_server.start()
    client.update_state(name, {"n": 1})
    assert dict(watch.next(30).view) == {"n": 1}


def test_a_watch_waits_for_a_server_that_was_never_there(own_server, name):
    own_server.kill()
    client = duite.Client(own_server.address)
    watch = client.watch_state(name)
    with pytest.raises(errors.Timeout):
        watch.next(0.3)
    own_server.start()
    assert dict(watch.next(30).view) == {}


def test_a_watch_ends_although_the_server_is_away(own_server, name):
    watch = duite.Client(own_server.address).watch_state(name)
    next(watch)
    own_server.kill()
    following = threading.Thread(target=lambda: list(watch))
    following.start()
    own_server.wait_until(lambda: watch.reconnects > 0)
    watch.close()
    following.join(10)
    assert not following.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_opens_a_stream_of_its_own(client, name):
    client.update_state(name, {"a": 1})
    watch = client.watch_state(name)
    next(watch)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            client.update_state(name, {"a": 2})
            code = 0 if watch.next(20).view["a"] == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert watch.next(20).view["a"] == 2
    assert watch.reconnects == 0


class Silent:
    """A stream that opens and then says nothing."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def __iter__(self):
        return self

    def __next__(self):
        self.cancelled.wait()
        raise StopIteration

    def cancel(self) -> None:
        self.cancelled.set()


def test_a_silent_connection_is_given_up(client, name, monkeypatch, caplog):
    silent, real, opened = Silent(), StateKind.method, []

    class SilentOnce:
        doing = real.doing

        def stream_on(self, channel):
            opened.append(channel)
            return (lambda *_, **__: silent) if len(opened) == 1 else real.stream_on(channel)

    monkeypatch.setattr(StateKind, "method", SilentOnce())
    monkeypatch.setattr(Plan, "silence", lambda self: 0.3)
    watch = client.watch_state(name)
    assert dict(watch.next(20).view) == {}
    assert silent.cancelled.is_set()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    watch.close()


class Flood:
    """A stream with more than anyone reads."""

    def __init__(self) -> None:
        self.given = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return self.given

    def cancel(self) -> None:
        pass


def test_a_slow_reader_is_not_read_ahead_of():
    flood = Flood()
    reader = StreamReader(lambda: flood)
    wait_until(lambda: flood.given == 3)
    until = time.monotonic() + 10
    assert [reader.get(until) for _ in range(5)] == [1, 2, 3, 4, 5]
    wait_until(lambda: flood.given == 8)
    reader.close()
    with pytest.raises(Ended):
        reader.get(until)
    gone = weakref.ref(reader)
    del reader
    wait_until(lambda: gone() is None, what="the end of the thread")


def test_watches_have_a_connection_of_their_own(client, name):
    next(client.watch_state(name))
    assert _connection.channel(client.address, "watch") is not _connection.channel(client.address)
