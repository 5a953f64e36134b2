"""`StateQueue`: write to a state as if it were a dict, and never wait.

```python
with duite.StateQueue(state="run-1") as q:
    for step in range(1000):
        q.update({"step": step, "loss": loss})
```

Each flush becomes visible at once and whole to everybody who watches the state. While the server is
slower than the program, or away, flushes fold: the last value of each key always arrives.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from duite import _encode
from duite._connection import address_from
from duite._encode import ADD, DELETE, MAX, MIN, Operation
from duite._fold import applied, fold_in
from duite._lanes import Pusher
from duite._target import owner, target
from duite.errors import FailedPrecondition, InvalidArgument

if TYPE_CHECKING:
    from duite._key_watch import KeyWatch

__all__ = ["QUEUE_EXIT", "StateQueue"]

QUEUE_EXIT = "STOP"


class StateQueue:
    """Writes to a shared state.

    `q["k"] = v`, `q.k = v` and `q.update({...})` set keys; reading gives what this queue wrote
    last, or None. With `auto_flush` each call is a flush of its own; else `flush()` makes one of
    all since the last. As a context manager it flushes and exits when the outermost `with` is left.
    A key that is called like a method or property of this class, or begins with `_`, is reached
    with `q["max"]` only.

    `queue` is what trame's StateQueue takes: an object with `put_nowait` gets the dicts and, at the
    end, `"STOP"`. A text is the name of a state. Without it, the state is `state`, else that of the
    task that runs, else what `DUITE_STATE` or `DUITE_TASK` say (with `DUITE_LEASE`); where nothing
    says, the queue does nothing, or raises FailedPrecondition with `quiet=False`.

    `addr`: the server's, else `$DUITE_ADDR`. `lease`: a lease's token (bytes or hex): what is
    written ends with the attempt. `fold=False`: each flush is a batch of its own, unless more than
    8,192 wait.

    Values are taken as they are at the call. They may be what `duite.Client.update_state` takes;
    one that cannot be sent raises InvalidArgument, one above 1 MiB ValueTooLarge, and nothing of
    that call is written. No method waits for the server but `flush_wait`. A process that ends gives
    its last flushes 5 s. In a forked or pickled copy the queue is a writer of its own. Thread-safe.
    """

    def __init__(
        self,
        queue: Any = None,
        auto_flush: bool = True,
        *,
        state: str | None = None,
        addr: str | None = None,
        namespace: str | None = None,
        lease: bytes | str | None = None,
        fold: bool = True,
        quiet: bool | None = None,
        on_directive: Callable[[str], None] | None = None,
    ) -> None:
        if isinstance(queue, str):
            if state is not None and state != queue:
                raise InvalidArgument(
                    f"two states are named, {queue!r} and {state!r}: name one",
                    code="INVALID_ARGUMENT",
                )
            queue, state = None, queue
        self._queue = queue
        self._auto_flush = auto_flush
        self._ctx_count = 0
        # What was set and not flushed, and what was flushed: as the program gave it.
        self._pending_update: dict[str, Any] = {}
        self._pushed_state: dict[str, Any] = {}
        # The same as the first, as it is sent.
        self._captured: dict[str, Any] = {}
        self._heavy = self._longest = 0
        self._plain = True
        self._pusher: Pusher | None = None
        self._lock = threading.Lock()
        self._watches: list[KeyWatch] = []
        self._state_name = ""
        self._recipe: dict[str, Any] = {"queue": queue, "auto_flush": auto_flush}
        if queue is not None:
            return
        found = target(state, namespace, lease)
        if found is None:
            if quiet is False:
                raise FailedPrecondition(
                    "there is no state to write to: name one, or run as a task (DUITE_STATE and "
                    "DUITE_TASK are not set)",
                    code="FAILED_PRECONDITION",
                )
            return
        own = owner() if state is None and lease is None else None
        address = address_from(addr or (own and own._address))
        self._state_name = found[0]
        self._recipe.update(state=found[0], addr=address, lease=found[1], fold=fold)
        self._pusher = pusher = Pusher(
            address, found[0], found[1], fold=fold, on_directive=on_directive
        )
        weakref.finalize(self, pusher.abandon).atexit = False
        _queues.add(self)
        if own is not None:
            # What it writes is the attempt's, whose end waits for it.
            own._adopt(self)

    # Reading.

    @property
    def queue(self) -> Any:
        """The queue that was given; the state's full name where this writes to one; else None."""
        return self._queue if self._queue is not None else self._state_name or None

    @property
    def rejected(self) -> dict[str, str]:
        """Keys that the server did not accept, with the reason it gave last, such as
        `TOO_MANY_KEYS`; at most 1,000 of them."""
        return dict(self._pusher.rejected) if self._pusher else {}

    @property
    def stats(self) -> dict[str, int]:
        """Counts since the queue was made: `flushes`, the `batches` made of them, how many of both
        are durable (`acked_flushes`, `acked_batches`), how many flushes were `folded`, and
        others."""
        pusher = self._pusher
        if pusher is None:
            return {}
        streams = (pusher.small.streams, pusher.large.streams)
        return {
            **vars(pusher.counters()),
            "rejected": pusher.rejections,
            "refused": pusher.refused,
            "reconnects": sum(max(count - 1, 0) for count in streams),
        }

    def __getitem__(self, key: str) -> Any:
        return self._pending_update.get(key, self._pushed_state.get(key))

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        if key.startswith("_"):
            return self.__dict__.get(key)
        return self[key]

    # Writing.

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):
            self.__dict__[key] = value
        else:
            self.update({key: value})

    def update(self, values: Mapping[str, Any]) -> None:
        """Sets keys, which become visible together."""
        pusher = self._pusher
        if not isinstance(values, dict):
            values = dict(values)
        if pusher is None:
            return self._update_without(values)
        captured, heavy, longest = _encode.capture(values)
        if self._auto_flush and not self._captured:
            self._pushed_state.update(values)
            if captured:
                pusher.flush(captured, heavy, longest, True)
            return None
        with self._lock:
            self._pending_update.update(values)
            self._captured.update(captured)
            self._heavy += heavy
            self._longest = max(self._longest, longest)
        if self._auto_flush:
            self.flush()
        return None

    def _update_without(self, values: Mapping[str, Any]) -> None:
        with self._lock:
            self._pending_update.update(values)
        if self._auto_flush:
            self.flush()

    def add(self, *args: Any, **amounts: int | float) -> None:
        """Adds to numbers: `q.add("n", 1)` or `q.add(n=1, seconds=0.5)`. The server adds, so many
        writers can share one count; a missing key counts as 0. Integers mix only with integers,
        floats only with floats."""
        self._operate(ADD, args, amounts)

    def max(self, *args: Any, **bounds: int | float) -> None:
        """Raises keys to numbers: keeps the larger of what the key holds and this."""
        self._operate(MAX, args, bounds)

    def min(self, *args: Any, **bounds: int | float) -> None:
        """Lowers keys to numbers: keeps the smaller of what the key holds and this."""
        self._operate(MIN, args, bounds)

    def delete(self, *keys: str) -> None:
        """Removes keys."""
        self._push({key: DELETE for key in keys})

    def _operate(self, kind: bytes, args: tuple[Any, ...], operands: dict[str, Any]) -> None:
        if args:
            if len(args) != 2:
                raise InvalidArgument(
                    "give a key and a number, or key=number", code="INVALID_ARGUMENT"
                )
            operands = {args[0]: args[1], **operands}
        self._push({key: Operation(kind, _number(key, given)) for key, given in operands.items()})

    def _push(self, operations: dict[str, Operation]) -> None:
        if not operations:
            return
        for key in operations:
            _encode.check_key(key)
        if self._queue is not None:
            raise FailedPrecondition(
                "a queue of the program's own takes values only: add, max, min and delete need a "
                "state",
                code="FAILED_PRECONDITION",
            )
        with self._lock:
            for key, operation in operations.items():
                known = self[key]
                value = None if operation is DELETE else applied(known, operation)
                self._pending_update.pop(key, None)
                self._pushed_state.pop(key, None)
                if value is not None:
                    self._pending_update[key] = value
            fold_in(self._captured, operations)
            self._plain = False
        if self._auto_flush:
            self.flush()

    def flush(self) -> None:
        """Hands over what was set since the last flush. Does not wait for it to arrive."""
        with self._lock:
            pending, self._pending_update = self._pending_update, {}
            self._pushed_state.update(pending)
            if self._queue is not None:
                if pending:
                    self._queue.put_nowait(pending)
                return
            captured, self._captured = self._captured, {}
            heavy, longest, plain = self._heavy, self._longest, self._plain
            self._heavy = self._longest = 0
            self._plain = True
            if captured and self._pusher is not None:
                self._pusher.flush(captured, heavy, longest, plain)

    def flush_wait(self, timeout: float | None = 10.0) -> bool:
        """Flushes and waits until everything is durable and visible to others; None: for ever.
        False when that did not happen within `timeout` seconds, or never will: the attempt is over,
        or the server refuses (the log says which)."""
        self.flush()
        pusher = self._pusher
        return pusher is None or pusher.wait(lambda: pusher.is_settled, timeout)

    def exit(self) -> None:
        """Says that this writer is done: what was flushed is sent with the mark of the end, and the
        server merges it at once. Does not wait. A later flush begins anew as another writer."""
        if self._queue is not None:
            self._queue.put_nowait(QUEUE_EXIT)
            return
        self.flush()
        if self._pusher is not None:
            self._pusher.finish()

    def __enter__(self) -> StateQueue:
        self._ctx_count += 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ctx_count -= 1
        if self._ctx_count == 0:
            self.flush()
            self.exit()

    # Being steered.

    def on_change(
        self, keys: str | Iterable[str], fn: Callable[[dict[str, Any]], Any]
    ) -> KeyWatch | None:
        """Calls `fn` with the keys of these that have changed and what they hold now (None:
        deleted), on a thread of its own, at first with what they hold already. Whatever happened
        between two calls is folded: the latest values count. Goes on until the process ends,
        through every loss of the connection, or until `close()` of what this gives. An error in
        `fn` is logged. A forked process follows only what it asks for itself. None where there is
        no state."""
        if self._pusher is None:
            return None
        from duite._key_watch import KeyWatch

        wanted = [keys] if isinstance(keys, str) else list(keys)
        watch = KeyWatch(self._pusher.address, self._state_name, wanted, fn)
        self._watches.append(watch)
        return watch

    # For the worker.

    def _marks(self) -> list[tuple[str, str, int]]:
        """State, writer and last sequence of each writer, with everything set so far in them."""
        self.flush()
        return self._pusher.marks() if self._pusher else []

    def _close(self, timeout: float = 10.0) -> bool:
        """Exits, waits until all is durable, and takes nothing more. Says whether all is."""
        for watch in self._watches:
            watch.close()
        pusher = self._pusher
        if pusher is None:
            return True
        self.flush()
        pusher.finish()
        settled = pusher.wait(lambda: pusher.is_settled, timeout)
        pusher.end(None)
        return settled

    def _forked(self) -> None:
        self._lock = threading.Lock()
        # What was not flushed is the parent's.
        self._pending_update, self._captured = {}, {}
        self._heavy = self._longest = 0
        # So are its watches: a program does not expect its functions to be called in every process.
        self._watches = []

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._recipe,)

    def __repr__(self) -> str:
        return f"<duite.StateQueue of {self.queue!r}>"


def _rebuild(recipe: dict[str, Any]) -> StateQueue:
    return StateQueue(**recipe)


def _number(key: str, given: Any) -> int | float:
    if not isinstance(given, (int, float)):
        # A numpy scalar.
        given = getattr(given, "item", lambda: given)()
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise _encode.refused(f"{type(given).__name__} is no number to operate on {key!r} with")
    number = int(given) if isinstance(given, int) else float(given)
    if number != number:
        raise _encode.refused(f"NaN is no number to operate on {key!r} with")
    _encode.encode(number)
    return number


_queues: weakref.WeakSet[StateQueue] = weakref.WeakSet()


def _after_fork() -> None:
    for queue in list(_queues):
        queue._forked()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
