"""Following keys of a state: how a program is steered while it runs.

A thread keeps a watch open and fills a board with each key's latest value; another calls the
program's function with what has changed. A slow function sees fewer, newer values; nothing queues.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from duite._backoff import Backoff
from duite._connection import channel
from duite._encode import check_key
from duite._fork import gate
from duite._values import from_value
from duite.errors import (
    InvalidArgument,
    NotFound,
    Unauthenticated,
    Unimplemented,
    from_rpc,
)
from duite.v1 import state_service_pb2 as pb
from duite.v1 import watch_pb2

log = logging.getLogger("duite")

# The API's limit for the keys of one watch.
MAX_KEYS = 256
# Above this a value would come as a stub: it is the largest there is.
INLINE_BYTES = 1 << 20
# The server says at least so often that it is there, in seconds; after three times as long without
# a word the connection is dead.
HEARTBEAT = 10
TELL_AFTER = 10.0

_FINAL = (InvalidArgument, NotFound, Unauthenticated, Unimplemented)


class StateWatch:
    """Keeps a view of a state current, for ever, on a daemon thread: `change(key, value)` for each
    change (`value`: a `pb.Value`, None for a deletion) and `consistent()` after each row of them. A
    key whose change was missed is told of as deleted."""

    def __init__(
        self,
        address: str,
        state: str,
        keys: Iterable[str],
        change: Callable[[str, Any], None],
        consistent: Callable[[], None],
        prefixes: Iterable[str] = (),
    ) -> None:
        self._address, self._state = address, state
        self._filter = pb.KeyFilter(exact=list(keys), prefixes=list(prefixes))
        self._change, self._consistent = change, consistent
        self._token: bytes = b""
        # The revision that the view has; what it holds, by key, with the revision of each.
        self._revision: int = 0
        self._held: dict[str, int] = {}
        self._stale: dict[str, int] = {}
        self._over = threading.Event()
        self._call: Any = None
        self._interrupted = False
        self.heard = time.monotonic()
        name = f"duite watch {state}"[-64:]
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        if self._call is not None:
            self._call.cancel()

    def interrupt(self) -> None:
        """Ends the stream for the moment of a fork."""
        self._interrupted = True
        if self._call is not None:
            self._call.cancel()

    def check(self) -> None:
        """Gives up a connection that was silent for too long. To be called now and then."""
        if time.monotonic() - self.heard > 3 * HEARTBEAT and self._call is not None:
            self.heard = time.monotonic()
            self._call.cancel()

    def _run(self) -> None:
        backoff = Backoff.for_streams()
        away_since = time.monotonic()
        told = False
        while not self._over.is_set():
            error: Exception | None = None
            began = self._revision
            gate.enter(self)
            try:
                self._stream(backoff)
            except grpc.RpcError as failed:
                error = from_rpc(failed, f"watch state {self._state}")
            except Exception as failed:  # noqa: BLE001 - it goes on for ever
                error = failed
                self._token = b""
            finally:
                gate.leave(self)
            if self._interrupted:
                self._interrupted = False
                continue
            if self._over.is_set():
                return
            if isinstance(error, _FINAL):
                log.warning("state %s is no longer watched: %s", self._state, error)
                return
            now = time.monotonic()
            if self._revision != began:
                away_since, told = now, False
            if now - away_since > TELL_AFTER and not told:
                told = True
                log.warning(
                    "state %s cannot be watched for now, and is tried again until it can: %s",
                    self._state,
                    error,
                )
            self._over.wait(backoff.next_wait() + (getattr(error, "retry_after", None) or 0))

    def _stream(self, backoff: Backoff) -> None:
        request = pb.WatchStateRequest(
            names=[self._state],
            keys=self._filter,
            options=watch_pb2.WatchOptions(resume_token=self._token),
            inline_limit_bytes=INLINE_BYTES,
        )
        request.options.heartbeat_interval.FromSeconds(HEARTBEAT)
        connection: Any = channel(self._address, "watch")
        watch: Any = connection.unary_stream(
            "/duite.v1.StateService/WatchState",
            request_serializer=pb.WatchStateRequest.SerializeToString,
            response_deserializer=pb.WatchStateResponse.FromString,
        )
        self.heard = time.monotonic()
        call: Any = watch(request)
        self._call = call
        frame: pb.WatchStateResponse
        for frame in call:
            self.heard = time.monotonic()
            if self._over.is_set():
                call.cancel()
                return
            kind = frame.WhichOneof("frame")
            if kind == "opened":
                if frame.opened.start == watch_pb2.WatchOpened.START_SNAPSHOT:
                    self._clear()
            elif kind == "reset":
                self._clear()
            elif kind == "snapshot":
                self._apply(frame.snapshot.entries)
            elif kind == "synced":
                backoff.reset()
                # What the snapshot did not have is gone.
                for key in self._stale:
                    self._change(key, None)
                self._stale = {}
                self._reach(frame.synced.position)
            elif kind == "delta":
                if frame.delta.base_revision != self._revision:
                    self._token = b""
                    call.cancel()
                    return
                self._apply(frame.delta.changes)
                if not frame.delta.more:
                    self._reach(frame.delta.position)
            elif kind == "bookmark":
                self._token = frame.bookmark.position.resume_token
                self._revision = frame.bookmark.position.revision

    def _clear(self) -> None:
        self._stale = {**self._stale, **self._held}
        self._held = {}

    def _apply(self, changes: Iterable[pb.KeyChange]) -> None:
        for change in changes:
            key = change.key
            before = self._held.get(key) or self._stale.pop(key, 0)
            kind = change.WhichOneof("change")
            if kind == "deleted":
                self._held.pop(key, None)
                self._change(key, None)
            elif kind == "value":
                self._held[key] = change.mod_revision
                if change.mod_revision != before:
                    self._change(key, change.value)
            # A stub: a newer value follows.

    def _reach(self, position: Any) -> None:
        self._token, self._revision = position.resume_token, position.revision
        self._consistent()


class KeyWatch:
    """What `StateQueue.on_change` gives. `close` ends it; without it, it lasts as long as the
    process."""

    def __init__(
        self, address: str, state: str, keys: Iterable[str], fn: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._fn, self._state = fn, state
        wanted = list(dict.fromkeys(keys))
        if not 0 < len(wanted) <= MAX_KEYS:
            raise InvalidArgument(
                f"{len(wanted)} keys are to be followed: give 1 to {MAX_KEYS}",
                reason="KEYS_TOO_MANY" if wanted else "FIELD_INVALID",
                code="INVALID_ARGUMENT",
            )
        for key in wanted:
            check_key(key)
        self._lock = threading.Condition()
        self._closed = False
        # What the function has not been told; and what came since the view was last consistent.
        self._news: dict[str, Any] = {}
        self._coming: dict[str, Any] = {}
        # What the function knows of.
        self._told: set[str] = set()
        self._watch = StateWatch(address, state, wanted, self._change, self._consistent)
        name = f"duite on_change {state}"[-64:]
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def close(self) -> None:
        """Ends it: the function is not called any more, but a call that runs is not waited for."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._watch.close()

    def _change(self, key: str, value: Any) -> None:
        self._coming[key] = value

    def _consistent(self) -> None:
        with self._lock:
            self._news.update(self._coming)
            self._coming = {}
            self._lock.notify_all()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._news and not self._closed:
                    self._lock.wait(HEARTBEAT)
                    self._watch.check()
                if self._closed:
                    return
                news, self._news = self._news, {}
            # Of a key that was never there, its absence is no news.
            changed = {
                key: None if value is None else from_value(value)
                for key, value in news.items()
                if value is not None or key in self._told
            }
            for key, value in news.items():
                (self._told.discard if value is None else self._told.add)(key)
            if not changed:
                continue
            try:
                self._fn(changed)
            except Exception:
                log.exception("a function that follows keys of state %s failed", self._state)
