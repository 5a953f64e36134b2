"""`duite.Queue`: the face of `multiprocessing.Queue`, between machines.

```python
queue = duite.Queue("results", addr="http://server:7643")
queue.put({"loss": 0.1})    # here
item = queue.get()          # there
```

trame's own `StateQueue` and `create_state_queue_monitor_task` run over it unchanged.
"""

from __future__ import annotations

import os
import queue as standard
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

from duite._connection import address_from
from duite._names import default_namespace, full_name
from duite._queue_parts import Consumer, Producer

__all__ = ["Queue"]

FIRST_LOOK_SECONDS = 1.0
"""So long the first `empty` or `get` waits at most for the server to say what is there."""

# Its own names, for those who catch `duite.queue.Empty`.
Empty: TypeAlias = standard.Empty
Full: TypeAlias = standard.Full


class Queue:
    """A queue of any number of producers and one consumer, kept in a state of the server.

    Each item is a key of the state, deleted when it is got; so nothing folds, and the items of each
    producer come in its order. Items survive a restart of the server, the producers (once accepted)
    and the consumer. An item comes at least once: again where the consumer ended before its
    deletion arrived.

    An item is anything that pickles, up to 1 MiB. None, bool, int (64 bits), float, str, bytes and
    lists and dicts of them travel as values that every language reads. *Anything else is unpickled
    when it is got: use a state that only those may write whom you trust to run code.*

    `put` returns when the item waits to be sent. Where the server is away or the state is full
    (10,000 keys), up to 1,000 items and 32 MiB wait here, then `put` waits, as long as its timeout,
    and `put_nowait` raises `queue.Full`. The producers' process gives its last items 5 s at its
    end.

    `state` is a state of its own: its other keys are left alone, but count towards its limit. Two
    consumers at a time get some items both. Works after `fork` and when pickled: as a producer of
    its own.
    """

    def __init__(
        self, state: str, addr: str | None = None, *, namespace: str | None = None
    ) -> None:
        self._state = full_name(state, default_namespace(namespace), "states")
        self._address = address_from(addr)
        self._begin_anew()
        _queues.add(self)

    def _begin_anew(self) -> None:
        """Forgets what the parent of a forked process had."""
        self._lock = threading.Lock()
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None

    @property
    def state(self) -> str:
        """The state's full name."""
        return self._state

    # Putting.

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Puts an item; waits for room up to `timeout` seconds (None: for ever), then raises
        `queue.Full`. ValueTooLarge for an item above 1 MiB."""
        if not self._producing().put(item, timeout if block else 0):
            raise Full

    def put_nowait(self, item: Any) -> None:
        """Puts an item, or raises `queue.Full` at once."""
        self.put(item, block=False)

    def full(self) -> bool:
        """Whether `put` would have to wait now."""
        return self._producer is not None and self._producer.is_full

    # Getting.

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the next item; waits for one up to `timeout` seconds (None: for ever), then raises
        `queue.Empty`. The first call begins to watch the state: see `empty`."""
        found, item = self._looking().get(timeout if block else 0)
        if not found:
            raise Empty
        return item

    def get_nowait(self) -> Any:
        """Takes an item that is here already, or raises `queue.Empty`."""
        return self.get(block=False)

    def empty(self) -> bool:
        """Whether no item is here already. The first call begins to watch the state, and waits
        until that shows what is there and what this object has put: at most 1 s, where the server
        is away."""
        consumer = self._looking()
        consumer.check()
        return len(consumer) == 0

    def qsize(self) -> int:
        """About how many items: at the consumer, those that are here; else those not accepted
        yet."""
        if self._consumer is not None:
            return len(self._consumer)
        return self._producer.outstanding if self._producer is not None else 0

    def flush_wait(self, timeout: float | None = 10.0) -> bool:
        """Waits until what was put is accepted and what was got is deleted; False where that takes
        longer than `timeout` seconds."""
        ends = [end for end in (self._producer, self._consumer) if end is not None]
        return all([end.settled(timeout) for end in ends])

    def close(self) -> None:
        """Puts and gets nothing more through this object; what was put is still sent. Using it
        again begins anew."""
        with self._lock:
            ends = [end for end in (self._producer, self._consumer) if end is not None]
            self._producer = self._consumer = None
        for end in ends:
            end.close()

    def _on_arrival(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Calls it, on a thread of the queue's, whenever items have come, until what this gives is
        called."""
        return self._consuming().on_arrival(callback)

    def _producing(self) -> Producer:
        producer = self._producer
        if producer is None:
            with self._lock:
                producer = self._producer = self._producer or Producer(self._address, self._state)
        return producer

    def _looking(self) -> Consumer:
        """The consumer, once it has seen what is there."""
        if self._consumer is not None:
            self._consumer.look(FIRST_LOOK_SECONDS)
            return self._consumer
        until = time.monotonic() + FIRST_LOOK_SECONDS
        if self._producer is not None:
            self._producer.settled(FIRST_LOOK_SECONDS)
        consumer = self._consuming()
        consumer.look(max(until - time.monotonic(), 0))
        return consumer

    def _consuming(self) -> Consumer:
        consumer = self._consumer
        if consumer is None:
            with self._lock:
                consumer = self._consumer = self._consumer or Consumer(self._address, self._state)
        return consumer

    def __reduce__(self) -> tuple[Any, ...]:
        return Queue, (self._state, self._address)

    def __repr__(self) -> str:
        return f"<duite.Queue in {self._state}>"


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_queues):
        each._begin_anew()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
