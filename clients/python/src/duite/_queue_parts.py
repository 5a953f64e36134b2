"""The two ends of `duite.Queue`: what puts items into a state, and what takes them out.

An item is a key: `q.`, the producer's id, a running number, and the number of the first item that
was not known to be accepted when this one was put. The producer writes in order with one writer, so
its keys appear in order. Only where a state was full some are turned away: then the producer takes
back those of its items that come later, and writes all of them again, in order. So a consumer waits
for the numbers that are missing. Where it sees a producer for the first time it begins with the
first number there is, if all before that were accepted; else it waits a moment for them, since they
may have been turned away, or taken by a consumer before it.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from duite import _encode
from duite._encode import DELETE, Wire
from duite._exits import before_exit
from duite._key_watch import HEARTBEAT, StateWatch
from duite._lanes import EXIT_FLUSH_SECONDS, Pusher
from duite._values import Blob, from_value

log = logging.getLogger("duite")

PREFIX = "q."
PICKLE = "application/vnd.python.pickle"
# A put waits, or raises Full, while so many items of this producer are not accepted by the server,
# or so many bytes.
MAX_OUTSTANDING = 1_000
MAX_OUTSTANDING_BYTES = 32 << 20
# What a full state turned away is tried again after so long, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
# So long a consumer waits for what may come before a producer's first item, in seconds: more than
# it takes to be told that something was turned away, and to take back what came after it.
GRACE = 1.0


def encode_item(item: Any) -> Wire:
    """A value that comes back equal and of the same type as it is, else its pickle."""
    if _is_native(item, 0):
        value = _encode.encode(item)
    else:
        value = _encode.blob(pickle.dumps(item, pickle.HIGHEST_PROTOCOL), PICKLE)
    if len(value) > _encode.MAX_VALUE_BYTES:
        raise _encode.too_large(f"an item of type {type(item).__name__}", len(value))
    return Wire(value)


def _is_native(item: Any, depth: int) -> bool:
    kind = type(item)  # pyright: ignore[reportUnknownVariableType]
    if item is None or kind is bool or kind is bytes:
        return True
    if kind is int:
        return _encode.LEAST <= item <= _encode.MOST
    if kind is float:
        return item == item
    if kind is str:
        return item.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in item)
    if depth >= _encode.MAX_DEPTH:
        return False
    if kind is list:
        return all(_is_native(part, depth + 1) for part in item)
    if kind is dict:
        return all(
            type(key) is str and _is_native(key, 0) and _is_native(part, depth + 1)
            for key, part in item.items()
        )
    return False


def decode_item(value: Any) -> Any:
    """The item. Unpickles: whoever may write to the state is trusted."""
    item = from_value(value)
    if type(item) is Blob and item.content_type == PICKLE:
        return pickle.loads(item.data)
    return item


class Producer:
    """Puts items. Thread-safe."""

    def __init__(self, address: str, state: str) -> None:
        self._id = uuid.uuid4().hex[:20]
        self._next = 1
        # Items that are not known to be accepted, with those accepted after one that was not.
        self._held: dict[int, Wire] = {}
        self._keys: dict[int, str] = {}
        self._bytes = 0
        # Numbers of what was flushed and not acknowledged, in order; 0: a key taken back.
        self._flushed: deque[int] = deque()
        self._acked = 0
        # The last item that ever was flushed.
        self._sent = 0
        self._turned_away: set[int] = set()
        self._stalled = False
        # Taken before the pusher's lock.
        self._room = threading.Condition()
        self._pusher = Pusher(address, state, use_large_lane=False, on_acked=self._on_acked)
        _producers.add(self)

    @property
    def outstanding(self) -> int:
        """Items that the server has not accepted yet."""
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether the next one has to wait."""
        return len(self._held) >= MAX_OUTSTANDING or self._bytes >= MAX_OUTSTANDING_BYTES

    def put(self, item: Any, timeout: float | None) -> bool:
        """Puts it, and says whether there was room within that time; None: waits for ever. Raises
        what ended the writing for good, such as missing credentials."""
        value = encode_item(item)
        with self._room:
            free = self._room.wait_for(lambda: self._pusher.over or not self.is_full, timeout)
            if self._pusher.over:
                raise self._pusher.last_error or RuntimeError("the queue is closed")
            if not free:
                return False
            number = self._next
            self._next += 1
            self._held[number] = value
            self._bytes += len(value)
            if not self._stalled:
                self._flush(number)
        before_exit(_at_exit)
        return True

    def settled(self, timeout: float | None) -> bool:
        """Waits until everything that was put is accepted."""
        with self._room:
            self._room.wait_for(lambda: self._pusher.over or not self._held, timeout)
            return not self._held

    def close(self) -> None:
        """Sends what was put, then ends."""
        self._pusher.abandon()

    def _flush(self, number: int) -> None:
        self._flushed.append(number)
        self._sent = max(self._sent, number)
        value = self._held[number]
        key = self._keys[number] = f"{PREFIX}{self._id}.{number}.{next(iter(self._held))}"
        self._pusher.flush({key: value}, len(value), 0, True)

    def _on_acked(self, acked: int, rejected: list[tuple[str, str]]) -> None:
        with self._room:
            for key, _reason in rejected:
                self._turned_away.add(int(key.split(".")[2]))
            # After one that was turned away the accepted are held: they have to come after it.
            first = min(self._turned_away, default=self._next)
            for _ in range(acked - self._acked):
                number = self._flushed.popleft()
                if 0 < number < first:
                    self._bytes -= len(self._held.pop(number))
                    del self._keys[number]
            self._acked = acked
            if self._turned_away and not self._stalled:
                self._stalled = True
                log.warning(
                    "state %s takes no more items for now (%s): they wait here and are put again",
                    self._pusher.state,
                    rejected[0][1],
                )
                threading.Thread(target=self._put_again, name="duite queue", daemon=True).start()
            self._room.notify_all()

    def _put_again(self) -> None:
        """Puts again what was turned away and all that comes after it, until nothing is."""
        pause = FIRST_PAUSE
        while True:
            with self._room:
                self._room.wait_for(lambda: self._pusher.over or not self._flushed)
                if self._pusher.over:
                    return
                if not self._turned_away:
                    self._stalled = False
                    for number in [number for number in self._held if number > self._sent]:
                        self._flush(number)
                    return
                first = min(self._turned_away)
                for number in self._held:
                    if first < number <= self._sent and number not in self._turned_away:
                        # Accepted, but nobody can get it before the first: its room is needed.
                        self._flushed.append(0)
                        self._pusher.flush({self._keys[number]: DELETE}, 0, 0, True)
                self._turned_away.clear()
            self._pusher.over_event.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            with self._room:
                for number in sorted(self._held):
                    if number <= self._sent:
                        self._flush(number)


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _at_exit() -> None:
    """Gives what a full state has turned away the same time as all that was flushed."""
    until = time.monotonic() + EXIT_FLUSH_SECONDS
    for producer in list(_producers):
        producer.settled(max(until - time.monotonic(), 0))


if hasattr(os, "register_at_fork"):
    # What the parent has put is the parent's.
    os.register_at_fork(after_in_child=_producers.clear)


class Consumer:
    """Takes items, those of each producer in its order. Thread-safe."""

    def __init__(self, address: str, state: str) -> None:
        self._pusher = Pusher(address, state, use_large_lane=False)
        self._arrived = threading.Condition()
        self._ready: deque[tuple[str, Any]] = deque()
        self._ready_keys: set[str] = set()
        self._producers: dict[str, _Order] = {}
        self._touched: set[str] = set()
        self._callbacks: list[Callable[[], None]] = []
        self._seen, self._has_looked = threading.Event(), False
        self._watch = StateWatch(
            address, state, [], self._change, self._consistent, prefixes=[PREFIX]
        )

    def __len__(self) -> int:
        return len(self._ready)

    def get(self, timeout: float | None) -> tuple[bool, Any]:
        """The next item, if one comes within that time; None: waits for ever."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._arrived:
            while not self._ready:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return False, None
                self._arrived.wait(HEARTBEAT if left is None else min(left, HEARTBEAT))
                self._watch.check()
            key, value = self._ready.popleft()
            self._ready_keys.discard(key)
        try:
            return True, decode_item(value)
        finally:
            # Also where it cannot be unpickled: else it would come again for ever.
            self._delete(key)

    def on_arrival(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls it, on a thread of ours, whenever something has come, until what this gives is
        called."""
        with self._arrived:
            self._callbacks.append(callback)
            is_late = bool(self._ready)
        if is_late:
            callback()
        return lambda: self._callbacks.remove(callback)

    def look(self, timeout: float) -> None:
        """Waits for the first view of the state, at most so many seconds, and once only."""
        if not self._has_looked:
            self._has_looked = True
            self._seen.wait(timeout)

    def settled(self, timeout: float | None) -> bool:
        """Waits until what was taken is deleted."""
        return self._pusher.wait(lambda: self._pusher.is_settled, timeout)

    def check(self) -> None:
        """To be called now and then: a connection that died is given up."""
        self._watch.check()

    def close(self) -> None:
        """Ends it; what was taken is still deleted."""
        self._watch.close()
        self._pusher.abandon()

    def _delete(self, key: str) -> None:
        self._pusher.flush({key: DELETE}, 0, 0, True)

    def _change(self, key: str, value: Any) -> None:
        parts = key[len(PREFIX) :].split(".")
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
            return
        producer, number, floor = parts[0], int(parts[1]), int(parts[2])
        with self._arrived:
            order = self._producers.setdefault(producer, _Order())
            if value is None:
                order.gone(number)
            elif order.is_stale(number):
                # It was got, and a writer that began anew has put it again.
                if key not in self._ready_keys:
                    self._delete(key)
            else:
                order.came(number, floor, (key, value))
                self._touched.add(producer)

    def _consistent(self) -> None:
        with self._arrived:
            touched, self._touched = self._touched, set()
            for producer in touched:
                if self._producers[producer].is_unsure:
                    timer = threading.Timer(GRACE, self._sure, [producer])
                    timer.daemon = True
                    timer.start()
        self._take(touched)
        self._seen.set()

    def _sure(self, producer: str) -> None:
        with self._arrived:
            self._producers[producer].begin()
        self._take([producer])

    def _take(self, producers: Iterable[str]) -> None:
        """Makes ready what is next of these."""
        with self._arrived:
            before = len(self._ready)
            for producer in producers:
                self._ready.extend(self._producers[producer].take())
            if len(self._ready) == before:
                return
            self._ready_keys.update(key for key, _ in islice(self._ready, before, None))
            self._arrived.notify_all()
            callbacks = list(self._callbacks)
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a queue failed")


class _Order:
    """Puts the items of one producer in order."""

    def __init__(self) -> None:
        # What came and was not taken: the items, and their floors.
        self._here: dict[int, tuple[str, Any]] = {}
        self._floors: dict[int, int] = {}
        # The first number that was taken, and the next one; 0: none yet.
        self._first = self._next = 0
        # Numbers before the first that were taken after it.
        self._late: set[int] = set()

    def is_stale(self, number: int) -> bool:
        """Whether it was taken."""
        return self._first <= number < self._next or number in self._late

    def came(self, number: int, floor: int, item: tuple[str, Any]) -> None:
        """It is there."""
        self._here[number], self._floors[number] = item, floor

    def gone(self, number: int) -> None:
        """It is not there any more: taken back by the producer, or by us."""
        self._here.pop(number, None)
        self._floors.pop(number, None)

    @property
    def is_unsure(self) -> bool:
        """Whether something may come before the first that is there."""
        return bool(
            not self._next and self._here and self._floors[min(self._here)] < min(self._here)
        )

    def begin(self) -> None:
        """Begins with the first that is there."""
        if not self._next and self._here:
            self._first = self._next = min(self._here)

    def take(self) -> list[tuple[str, Any]]:
        """What is next, in order."""
        if not self._next and not self.is_unsure:
            self.begin()
        taken: list[tuple[str, Any]] = []
        if not self._next:
            return taken
        # It was waited for in vain, and comes all the same: late is better than never.
        for number in sorted(number for number in self._here if number < self._first):
            self._late.add(number)
            taken.append(self._here.pop(number))
        while self._next in self._here:
            taken.append(self._here.pop(self._next))
            self._floors.pop(self._next)
            self._next += 1
        return taken
