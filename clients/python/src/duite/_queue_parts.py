"""The two ends of `duite.Queue`: what puts items into a state, and what takes them out.

An item is a key: `q.`, the producer's id, and a running number. The producer writes in order with one
writer, so the keys of a producer appear in order. Only where a state was full some are turned away: then
the producer takes back those of its items that come later, and writes all of them again, in order.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from duite import _encode
from duite._encode import DELETE, Wire
from duite._key_watch import HEARTBEAT, StateWatch
from duite._lanes import Pusher
from duite._values import Blob, from_value

log = logging.getLogger("duite")

PREFIX = "q."
PICKLE = "application/vnd.python.pickle"
# A put waits, or raises Full, while so many items of this producer are not accepted by the server, or
# so many bytes.
MAX_OUTSTANDING = 1_000
MAX_OUTSTANDING_BYTES = 32 << 20
# What a full state turned away is tried again after so long, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0


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
    kind = type(item)
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
        return True

    def settled(self, timeout: float | None) -> bool:
        """Waits until everything that was put is accepted."""
        with self._room:
            self._room.wait_for(lambda: self._pusher.over or not self._held, timeout)
            return not self._held

    def close(self) -> None:
        """Sends what was put, then ends."""
        self._pusher.abandon()

    def _key(self, number: int) -> str:
        return f"{PREFIX}{self._id}.{number}"

    def _flush(self, number: int) -> None:
        self._flushed.append(number)
        self._sent = max(self._sent, number)
        value = self._held[number]
        self._pusher.flush({self._key(number): value}, len(value), 0, True)

    def _on_acked(self, acked: int, rejected: list[tuple[str, str]]) -> None:
        with self._room:
            for key, _reason in rejected:
                self._turned_away.add(int(key.rpartition(".")[2]))
            # After one that was turned away the accepted are held: they have to come after it.
            first = min(self._turned_away, default=self._next)
            for _ in range(acked - self._acked):
                number = self._flushed.popleft()
                if 0 < number < first:
                    self._bytes -= len(self._held.pop(number))
            self._acked = acked
            if self._turned_away and not self._stalled:
                self._stalled = True
                log.warning(
                    "state %s takes no more items for now (%s): they wait here and are put again",
                    self._pusher.state, rejected[0][1],
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
                        self._pusher.flush({self._key(number): DELETE}, 0, 0, True)
                self._turned_away.clear()
            self._pusher.over_event.wait(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            with self._room:
                for number in sorted(self._held):
                    if number <= self._sent:
                        self._flush(number)


class Consumer:
    """Takes items, those of each producer in its order. Thread-safe."""

    def __init__(self, address: str, state: str) -> None:
        self._pusher = Pusher(address, state, use_large_lane=False)
        self._arrived = threading.Condition()
        self._ready: deque[tuple[str, Any]] = deque()
        # What came and waits for what comes before it, by producer and number.
        self._early: dict[str, dict[int, Any]] = {}
        self._expected: dict[str, int] = {}
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
        producer, _, text = key[len(PREFIX) :].rpartition(".")
        if not producer or not text.isdecimal():
            return
        number = int(text)
        early = self._early.setdefault(producer, {})
        if value is None:
            early.pop(number, None)
        elif number < self._expected.get(producer, 0):
            # It was taken, and its deletion may have been overtaken by a writer that began anew.
            if not any(key == ready for ready, _ in self._ready):
                self._delete(key)
        else:
            early[number] = (key, value)
            self._touched.add(producer)

    def _consistent(self) -> None:
        came = False
        with self._arrived:
            for producer in self._touched:
                early = self._early[producer]
                if not early:
                    continue
                number = self._expected.get(producer) or min(early)
                while number in early:
                    self._ready.append(early.pop(number))
                    number += 1
                    came = True
                self._expected[producer] = number
            self._touched.clear()
            if came:
                self._arrived.notify_all()
            callbacks = list(self._callbacks) if came else []
        self._seen.set()
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a queue failed")
