"""The pure half of a watch: no connection, no clock, no threads.

`Fold` folds frames into a view and checks that they chain: a view is only ever shown at a position
that the server named, and what comes before that, a snapshot or a delta in several parts, is kept
aside until its last part is there. `Plan` decides around it: with which options to open the next
stream, when a silent one is dead, how long to wait, and what no reconnect can mend.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, Protocol, TypeVar

from duite._backoff import Backoff
from duite._call import Method
from duite.errors import DuiteError, Unavailable
from duite.tasks import Position
from duite.v1 import watch_pb2

# What the server sends at least something in, until it says otherwise, in seconds.
DEFAULT_HEARTBEAT = 15.0
# So many heartbeats of silence end a stream.
SILENT_HEARTBEATS = 3
# The first frame has to come within this, in seconds.
OPEN_TIMEOUT = 10.0
# Waits after a planned end are at most this, whatever the server asks for, in seconds.
LONGEST_RECONNECT = 60.0
# Errors that no reconnect can mend.
_FINAL = frozenset(
    (
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "UNIMPLEMENTED",
        "FAILED_PRECONDITION",
    )
)

C = TypeVar("C")


class View(Protocol[C]):
    """What changes are folded into."""

    def apply(self, change: C, /) -> None:
        """Applies a change. Applying one again that the view already has changes nothing."""

    def since(self, before: Any, /) -> list[C]:
        """The changes that lead from another view to this one."""
        ...

    def stand_at(self, position: Position, /) -> None:
        """The view equals the server's there."""


V = TypeVar("V", bound=View[Any])
V_co = TypeVar("V_co", bound=View[Any], covariant=True)


class Kind(Protocol[C, V_co]):
    """What is watched: all that differs between states and tasks."""

    @property
    def method(self) -> Method[Any, Any]:
        """The call that opens a stream."""
        ...

    @property
    def may_end(self) -> bool:
        """Whether the caller asked for an end."""
        ...

    def request(self, options: watch_pb2.WatchOptions) -> Any:
        """The request that opens a stream with these options."""

    def empty(self) -> V_co:
        """A view of nothing."""
        ...

    def changes(self, part: Any) -> list[C]:
        """What a snapshot's or a delta's part says."""
        ...


@dataclasses.dataclass(frozen=True)
class Shown(Generic[C, V]):
    """What there is to tell: these changes lead from the view told before to this one."""

    changes: list[C]
    view: V
    position: Position
    folded_commits: int


class BrokenChain(Exception):
    """Frames that do not follow from each other: the view cannot be trusted any more."""


class Fold(Generic[C, V]):
    """See the module."""

    def __init__(self, kind: Kind[C, V], start: Position | None = None) -> None:
        self._kind = kind
        self.view: V = kind.empty()
        self.revision = start.revision or None if start else None
        self.token = start.token if start else b""
        # The snapshot that is coming in.
        self._staged: V | None = None
        # The parts of an unfinished delta.
        self._parts: list[C] = []
        self._in_delta = False
        self._shown = False

    def is_at_least(self, revision: int) -> bool:
        """Whether what was shown is at least as fresh as that."""
        whole = self._shown and self._staged is None
        return whole and self.revision is not None and self.revision >= revision

    def forget(self) -> None:
        """The next stream starts with a snapshot. What was shown stays shown until then."""
        self.revision, self.token, self._staged = None, b"", None
        self._parts, self._in_delta = [], False

    def on_disconnect(self) -> None:
        """The stream is gone, and with it what was not complete."""
        if self._staged is not None:
            # Half a snapshot: what the view holds is older than the position may say.
            self.forget()
        self._parts, self._in_delta = [], False

    def on_frame(self, name: str, frame: Any) -> Shown[C, V] | None:
        """Takes one frame. Raises BrokenChain."""
        # A reset drops the parts with all else; those that a closing stream leaves unfinished go
        # with the stream.
        if self._in_delta and name not in ("delta", "reset", "closing"):
            raise BrokenChain("a delta in parts was cut by another frame")
        if name == "opened":
            self._on_opened(frame)
        elif name == "snapshot":
            if self._staged is None:
                raise BrokenChain("a snapshot came that was not announced")
            for change in self._kind.changes(frame):
                self._staged.apply(change)
        elif name == "synced":
            return self._on_synced(frame)
        elif name == "delta":
            return self._on_delta(frame)
        elif name == "bookmark":
            position = self._move_to(frame)
            # In the middle of a snapshot a token would resume past what has not come yet.
            if self._staged is None:
                self.token = position.token
                self.view.stand_at(position)
        elif name == "reset":
            self.forget()
            self._staged = self._kind.empty()
        return None

    def _on_opened(self, opened: watch_pb2.WatchOpened) -> None:
        told = opened.position.revision or None
        if opened.start == watch_pb2.WatchOpened.START_RESUMED:
            if self.revision and told and self.revision != told:
                raise BrokenChain(f"resumed at revision {told}, held {self.revision}")
            self.revision = told or self.revision
        elif opened.start == watch_pb2.WatchOpened.START_LIVE:
            self.revision = told
        else:
            self._staged, self.revision = self._kind.empty(), None

    def _on_synced(self, synced: watch_pb2.WatchSynced) -> Shown[C, V] | None:
        position = self._move_to(synced)
        self.token = position.token
        changes: list[C] = []
        if self._staged is not None:
            changes = self._staged.since(self.view)
            self.view, self._staged = self._staged, None
        self.view.stand_at(position)
        if self._shown and not changes:
            # Resumed, and nothing is new.
            return None
        self._shown = True
        return Shown(changes, self.view, position, 0)

    def _on_delta(self, delta: Any) -> Shown[C, V] | None:
        # Every part names the same base; the first is where the chain can break.
        base = delta.base_revision
        if not self._in_delta and self.revision is not None and self.revision != base:
            raise BrokenChain(f"a delta from revision {base} came, held {self.revision}")
        self._in_delta = delta.more
        self._parts.extend(self._kind.changes(delta))
        if delta.more:
            return None
        if not delta.HasField("position"):
            raise BrokenChain("a delta ended without a position")
        position = self._move_to(delta)
        changes, self._parts = self._parts, []
        view = self.view if self._staged is None else self._staged
        for change in changes:
            view.apply(change)
        if self._staged is not None:
            return None
        self.token = position.token
        self.view.stand_at(position)
        self._shown = True
        return Shown(changes, self.view, position, delta.folded_commits)

    def _move_to(self, frame: Any) -> Position:
        position = Position.of(frame.position)
        if self.revision is not None and self.revision > position.revision:
            raise BrokenChain(f"the revision went back from {self.revision} to {position.revision}")
        self.revision = position.revision
        return position


@dataclasses.dataclass(frozen=True)
class Notice:
    """What deserves a line in the log, told once: the server was lost or is back, or a watch had
    to start over because frames did not chain."""

    what: str
    why: str = ""


class Plan(Generic[C, V]):
    """See the module. Times are `time.monotonic()`'s."""

    def __init__(
        self,
        kind: Kind[C, V],
        options: watch_pb2.WatchOptions,
        start: Position | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self.kind = kind
        self.fold: Fold[C, V] = Fold(kind, start)
        self._options = options
        self._backoff = backoff or Backoff.for_streams()
        self._heartbeat = DEFAULT_HEARTBEAT
        self._opened = False
        # The wait that the server announced with its end.
        self._closing: float | None = None
        # The last stream's frames did not chain, and nothing since has shown that this one's do.
        self._mistrusted = False
        self._notices: list[Notice] = []
        # What the view has to be as fresh as for the watch to be over; and whether the stream was
        # opened to be.
        self._until: Position | None = None
        self._reaches_it = False
        self.is_over = False
        self.is_lost = False
        self.reconnects = 0

    def request(self) -> Any:
        """What to open the next stream with."""
        options = watch_pb2.WatchOptions()
        options.CopyFrom(self._options)
        options.resume_token = self.fold.token
        if options.resume_token:
            options.updates_only = False
        self._reaches_it = self._until is not None
        if self._until is not None:
            options.min_position = self._until.token
        self._opened = False
        return self.kind.request(options)

    def silence(self) -> float:
        """How long the stream may say nothing until it is dead, in seconds."""
        return self._heartbeat * SILENT_HEARTBEATS if self._opened else OPEN_TIMEOUT

    def on_frame(self, response: Any) -> Shown[C, V] | None:
        """Takes what the stream gave. Raises BrokenChain: see `on_broken`."""
        name: str | None = response.WhichOneof("frame")
        if name is None:
            # A frame of a newer server.
            return None
        frame = getattr(response, name)
        if name == "opened":
            self._opened = True
            seconds = frame.heartbeat_interval.ToNanoseconds() / 1e9
            self._heartbeat = seconds if seconds > 0 else self._heartbeat
        elif name == "closing":
            asked = frame.reconnect_after.ToNanoseconds() / 1e9
            self._closing = min(max(asked, 0.0), LONGEST_RECONNECT)
        shown = self.fold.on_frame(name, frame)
        if name in ("delta", "bookmark") or (name == "synced" and not self._mistrusted):
            self._mistrusted = False
            self._backoff.reset()
        if name in ("synced", "delta", "bookmark") and self.is_lost:
            self.is_lost = False
            self._notices.append(Notice("back"))
        if name == "synced" and self._reaches_it:
            self.is_over = True
        else:
            self._look_for_the_end()
        return shown

    def on_task_end(self, end: Position) -> bool:
        """The task has ended that the watch lasts until. Whether its stream has to be opened again,
        as the view is not as fresh yet."""
        if self._until is None:
            self._until = end
            self._look_for_the_end()
            return not self.is_over
        return False

    def _look_for_the_end(self) -> None:
        if self._until is not None and self.fold.is_at_least(self._until.revision):
            self.is_over = True

    def on_broken(self, broken: BrokenChain) -> float:
        """The stream has to be given up; how long to wait before the next."""
        self._notices.append(Notice("broken", str(broken)))
        # A server that breaks each chain is not asked for its snapshot at full speed.
        self._mistrusted = True
        return self._start_over()

    def on_end(self, error: DuiteError | None) -> float | None:
        """The stream has ended, with OK where `error` is None. How long to wait before the next;
        None: the end that was asked for has come. Raises what no reconnect can mend."""
        announced, self._closing = self._closing, None
        if error is None:
            if self.kind.may_end and announced is None:
                return None
            error = Unavailable("the server ended the stream", reason="STREAM_BROKEN")
        held_token = bool(self.fold.token)
        self.fold.on_disconnect()
        if error.reason == "EPOCH_CHANGED" and self._until is not None and self._until.token:
            # The task's end is of the old one: any view of the new one is later.
            self._until = Position()
            return self._start_over()
        if held_token and error.reason in ("RESUME_TOKEN_MALFORMED", "EPOCH_CHANGED"):
            return self._start_over()
        if error.code in _FINAL or error.reason == "REVISION_COMPACTED":
            raise error
        self.reconnects += 1
        if announced is not None:
            return announced
        if not self.is_lost:
            self.is_lost = True
            self._notices.append(Notice("lost", str(error)))
        return (error.retry_after or 0.0) + self._backoff.next_wait()

    def on_silence(self) -> float:
        """Nothing was heard for `silence()`; how long to wait before the next stream."""
        why = (
            "nothing was heard for three heartbeats" if self._opened else "it did not open in time"
        )
        wait = self.on_end(Unavailable(why, reason="STREAM_BROKEN", code="UNAVAILABLE"))
        return wait or 0.0

    def on_drop(self) -> None:
        """The stream was given up by this side."""
        self._closing = None
        self.fold.on_disconnect()

    def _start_over(self) -> float:
        self.fold.forget()
        self._options.updates_only = False
        self._closing = None
        self.reconnects += 1
        return self._backoff.next_wait()

    def take_notices(self) -> list[Notice]:
        """What is to be logged, once."""
        notices, self._notices = self._notices, []
        return notices
