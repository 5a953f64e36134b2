"""on_change: a program is told what others write."""

import logging
import threading

import pytest
from conftest import wait_until

import duite
from duite.errors import InvalidArgument


@pytest.fixture
def two(server, name):
    one, other = (duite.StateQueue(name, addr=server.address) for _ in range(2))
    yield one, other
    one._close(5)
    other._close(5)


def follow(q, keys):
    seen = []
    q.on_change(keys, seen.append)
    return seen


def test_what_a_key_holds_already_comes_first_then_what_changes(two):
    q, other = two
    other.update({"lr": 0.1, "unrelated": 1})
    assert other.flush_wait()
    seen = follow(q, ["lr", "stop"])
    wait_until(lambda: seen == [{"lr": 0.1}])
    other.stop = True
    wait_until(lambda: seen[1:] == [{"stop": True}])
    other.delete("lr")
    wait_until(lambda: seen[2:] == [{"lr": None}])
    other.unrelated = 2
    other.lr = b"x" * 500_000
    wait_until(lambda: seen[3:] == [{"lr": b"x" * 500_000}])


def test_a_slow_function_gets_the_latest_values_only(two):
    q, other = two
    seen, go_on = [], threading.Event()

    def slow(changes):
        seen.append(changes)
        go_on.wait(10)

    q.on_change("n", slow)
    other.n = 0
    wait_until(lambda: seen)
    for n in range(1, 50):
        other.n = n
        assert other.flush_wait()
    go_on.set()
    wait_until(lambda: seen[-1] == {"n": 49})
    assert len(seen) < 10


def test_an_error_in_the_function_is_logged_and_ends_nothing(two, caplog):
    q, other = two
    seen = []

    def faulty(changes):
        seen.append(changes["n"])
        raise ValueError("of the test")

    q.on_change("n", faulty)
    for n in range(2):
        other.n = n
        wait_until(lambda n=n: n in seen)
    wait_until(lambda: sum(r.levelno == logging.ERROR for r in caplog.records) == len(seen))


def test_it_can_be_closed(two):
    q, other = two
    seen = []
    watch = q.on_change("n", seen.append)
    other.n = 1
    wait_until(lambda: seen)
    watch.close()
    later = follow(q, "n")
    other.n = 2
    wait_until(lambda: {"n": 2} in later)
    assert seen == [{"n": 1}]


def test_it_goes_on_after_the_server_was_killed_and_tells_what_changed_meanwhile(own_server):
    q, other = (duite.StateQueue("s", addr=own_server.address) for _ in range(2))
    other.update({"a": 1, "b": 1, "c": 1})
    assert other.flush_wait()
    seen = follow(q, ["a", "b", "c"])
    wait_until(lambda: seen == [{"a": 1, "b": 1, "c": 1}])
    own_server.kill()
    other.a = 2
    other.delete("b")
    own_server.start()
    now = {}
    wait_until(
        lambda: [now.update(change) for change in seen] and now == {"a": 2, "b": None, "c": 1}
    )
    # What did not change is not told of again.
    assert all("c" not in change for change in seen[1:])
    q._close(0)
    other._close(0)


def test_too_many_keys_or_wrong_ones_are_refused_at_once(two):
    q, _ = two
    for keys in ([], [f"k{n}" for n in range(257)], ["k" * 257]):
        with pytest.raises(InvalidArgument):
            q.on_change(keys, print)
