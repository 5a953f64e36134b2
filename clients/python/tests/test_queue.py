"""duite.Queue: the face of multiprocessing.Queue, over a real server."""

import multiprocessing
import os
import pickle
import queue as standard
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ProcessPoolExecutor

import pytest
from conftest import wait_until

import duite
from duite import _queue_parts as parts
from duite.errors import ValueTooLarge


@pytest.fixture
def make(server, name):
    made = []

    def make(address=None, state=name):
        made.append(duite.Queue(state, address or server.address))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Thing:
    """Something that only pickles."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return type(other) is Thing and other.name == self.name

    __hash__ = None


ITEMS = [
    None, True, 1, 2**70, -1.5, "STOP", "\u00e4", "\ud800", b"x", [1, [2]], {"a": {"b": None}},
    (1, 2), {1: 2}, {1, 2}, [(1,)], float("inf"), Thing("x"), uuid.UUID(int=3), b"y" * 900_000,
]  # fmt: skip


def test_items_come_back_as_they_were_and_in_order(make):
    a, b = make(), make()
    for item in ITEMS:
        a.put(item)
    got = [b.get(timeout=10) for _ in ITEMS]
    assert got == ITEMS
    assert [type(item) for item in got] == [type(item) for item in ITEMS]
    assert b.empty()
    with pytest.raises(standard.Empty):
        b.get_nowait()
    with pytest.raises(duite.queue.Empty):
        b.get(timeout=0.01)


def test_what_every_language_reads_is_not_pickled():
    for item in [None, 1, "x", [1, {"a": b"x"}]]:
        assert parts.PICKLE.encode() not in parts.encode_item(item)
    for item in [(1,), Thing("x"), {1: 2}, 2**64]:
        assert parts.PICKLE.encode() in parts.encode_item(item)


def test_an_item_that_is_too_large_is_refused_and_leaves_no_gap(make):
    a, b = make(), make()
    with pytest.raises(ValueTooLarge):
        a.put(b"x" * (1 << 20))
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        a.put(lambda: None)
    a.put(1)
    assert b.get(timeout=10) == 1


def test_items_change_no_more_once_they_are_put(make):
    a, b = make(), make()
    item = [1]
    a.put(item)
    item.append(2)
    assert b.get(timeout=10) == [1]


def test_several_producers_each_keep_their_order(make):
    consumer = make()
    assert consumer.empty()

    def produce(me):
        producer = make()
        for n in range(300):
            producer.put((me, n))

    threads = [threading.Thread(target=produce, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    got = [consumer.get(timeout=20) for _ in range(1200)]
    for thread in threads:
        thread.join()
    for me in range(4):
        assert [n for who, n in got if who == me] == list(range(300))


def test_what_was_got_is_deleted_and_does_not_come_again(make):
    a, b = make(), make()
    for n in range(100):
        a.put(n)
    assert [b.get(timeout=10) for _ in range(60)] == list(range(60))
    assert b.flush_wait(10)
    b.close()
    # Another consumer goes on where the first one was.
    c = make()
    assert [c.get(timeout=10) for _ in range(40)] == list(range(60, 100))
    assert c.empty()
    a.put("more")
    assert c.get(timeout=10) == "more"


def test_items_survive_a_kill_of_the_server(own_server):
    a, b = (duite.Queue("s", own_server.address) for _ in range(2))
    for n in range(50):
        a.put(n)
    got = [b.get(timeout=10) for _ in range(20)]
    own_server.kill()
    for n in range(50, 100):
        a.put(n)
    assert a.qsize() > 0
    own_server.start()
    got += [b.get(timeout=20) for _ in range(80)]
    assert got == list(range(100))
    a.close()
    b.close()


def fill(q, item=None, timeout=1):
    """Puts until it is full, numbers or the item, and says how many."""
    for n in range(100_000):
        try:
            q.put(n if item is None else item, timeout=timeout)
        except standard.Full:
            return n
    raise AssertionError("it is never full")


def test_where_the_state_is_full_items_wait_and_none_is_lost_or_out_of_order(make, monkeypatch):
    a, b = make(), make()
    n = fill(a)
    assert n == 10_000 + parts.MAX_OUTSTANDING
    assert a.full()
    with pytest.raises(standard.Full):
        a.put_nowait(n)
    got = [b.get(timeout=20) for _ in range(n)]
    assert got == list(range(n))
    assert a.flush_wait(20)
    assert not a.full()
    a.put("after")
    assert b.get(timeout=10) == "after"


def test_several_producers_get_through_a_full_state(make):
    makers = [make() for _ in range(4)]

    def produce(me):
        for n in range(4_000):
            makers[me].put((me, n), timeout=60)

    threads = [threading.Thread(target=produce, args=(me,), daemon=True) for me in range(4)]
    for thread in threads:
        thread.start()
    wait_until(
        lambda: any(maker._producer and maker._producer._stalled for maker in makers),
        what="a full state",
    )
    consumer = make()
    got = [consumer.get(timeout=30) for _ in range(16_000)]
    for me in range(4):
        assert [n for who, n in got if who == me] == list(range(4_000))


def test_a_put_waits_no_longer_than_it_was_told_where_the_server_is_away():
    q = duite.Queue("s", "http://127.0.0.1:1")
    for n in range(parts.MAX_OUTSTANDING):
        q.put_nowait(n)
    began = time.monotonic()
    with pytest.raises(standard.Full):
        q.put(1, timeout=0.1)
    assert time.monotonic() - began < 5
    q._producer._pusher.end(None)


def test_bytes_that_wait_are_bounded_too():
    q = duite.Queue("s", "http://127.0.0.1:1")
    fill(q, b"x" * 1_000_000, timeout=0)
    assert q.qsize() <= 34
    q._producer._pusher.end(None)


def test_its_consumer_can_be_told_of_arrivals(make):
    a, b = make(), make()
    arrived = threading.Event()
    b._on_arrival(arrived.set)
    a.put(1)
    assert arrived.wait(10)
    assert b.get_nowait() == 1


def test_a_pickled_copy_is_another_producer(make):
    a = make()
    copy = pickle.loads(pickle.dumps(a))
    a.put(1)
    copy.put(2)
    consumer = make()
    assert sorted(consumer.get(timeout=10) for _ in range(2)) == [1, 2]
    copy.close()


def produce(q, n):
    q.put(os.getpid())
    q.put(n)
    return True


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_it_works_in_processes_of_multiprocessing(make, method, monkeypatch):
    consumer = make()
    consumer.put("parent")
    assert consumer.get(timeout=10) == "parent"
    context = multiprocessing.get_context(method)
    process = context.Process(target=produce, args=(consumer, 1))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert consumer.get(timeout=10) == process.pid
    assert consumer.get(timeout=10) == 1
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert all(pool.map(produce, [consumer] * 3, range(3)))
    got = [consumer.get(timeout=10) for _ in range(6)]
    assert sorted(item for item in got if item < 10) == [0, 1, 2]


async def test_trames_own_state_queue_and_monitor_run_over_it(make):
    trame = pytest.importorskip("trame.app")
    asynchronous = pytest.importorskip("trame.app.asynchronous")
    producer, consumer = make(), make()
    server = trame.get_server("over-duite")
    monitor = asynchronous.create_state_queue_monitor_task(server, consumer, delay=0.01)
    with asynchronous.StateQueue(producer) as state:
        state.update({"a": 1, "b": [1, 2]})
        state.c = (1, 2)
        for n in range(100):
            state.n = n
    await monitor
    found = server.state
    assert (found.a, found.b, found.c, found.n) == (1, [1, 2], (1, 2), 99)


def order_of(steps):
    """What the order of one producer gives for `came` (number, floor), `gone` (-number) and the end
    of the patience (None)."""
    order, got = parts._Order(), []
    for step in steps:
        if step is None:
            order.begin()
        elif isinstance(step, int):
            order.gone(-step)
        elif order.is_stale(step[0]):
            got.append(f"stale {step[0]}")
            continue
        else:
            order.came(*step, step[0])
        got += order.take()
    return got


def test_a_gap_is_waited_for():
    assert order_of([(1, 1), (3, 1), (2, 1), (4, 3)]) == [1, 2, 3, 4]


def test_a_consumer_begins_with_the_first_number_that_nothing_comes_before():
    assert order_of([(7, 7), (8, 7)]) == [7, 8]


def test_a_first_item_that_something_may_come_before_waits_for_it():
    # 1 was turned away, 2 taken back; both come again.
    assert order_of([(2, 1), -2, (1, 1), (2, 1)]) == [1, 2]
    # A consumer before this one has taken what came before.
    assert order_of([(5, 3), (6, 3), None]) == [5, 6]


def test_what_comes_late_is_not_lost_and_what_was_taken_is_not_given_again():
    assert order_of([(5, 3), None, (3, 3), (3, 3), (5, 3)]) == [5, 3, "stale 3", "stale 5"]


def test_a_new_producer_at_a_full_state_keeps_its_order_too(make):
    filler = make()
    fill(filler, ("filler", 0))
    others = [make() for _ in range(3)]
    for who, other in enumerate(others):
        for n in range(200):
            other.put((who, n), timeout=30)
    consumer = make()
    got = []
    while len(got) < 600:
        item = consumer.get(timeout=20)
        got += [item] * (item[0] != "filler")
    for me in range(3):
        assert [n for who, n in got if who == me] == list(range(200))


def test_what_a_full_state_turned_away_still_arrives_when_the_process_ends(server, name):
    client = duite.Client(server.address)
    filler = [f"filler-{number}" for number in range(10_000)]
    client.update_state(name, dict.fromkeys(filler, 1))
    script = f"import duite; q = duite.Queue({name!r}); [q.put(n) for n in range(3)]; print('put')"
    environment = {**os.environ, "DUITE_ADDR": server.address, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"
        client.update_state(name, delete=filler)
    assert process.returncode == 0
    queue = duite.Queue(name, server.address)
    assert [queue.get(timeout=10) for _ in range(3)] == [0, 1, 2]
