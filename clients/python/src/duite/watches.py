"""What watches give: views of states and tasks that follow the server's, and the events that carry
them on.

Between two events a view equals the server's at its `revision`. Each event's `changes` lead from
the view of the event before to the one it has, also over breaks of the connection and where history
was lost meanwhile: whoever applies them all to a copy has the same view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from duite import _names, _requests
from duite._call import Method
from duite._values import from_value
from duite._watch_core import Shown
from duite.tasks import Position, Task, TaskStatus
from duite.v1 import common_pb2, state_service_pb2, task_service_pb2, watch_pb2

__all__ = [
    "Entry",
    "LargeValue",
    "RemovedTask",
    "StateEvent",
    "StateView",
    "TaskEvent",
    "TaskView",
]

Fetch = Callable[[str], Any]


class LargeValue:
    """Stands in a view for a value over the watch's `inline_limit`. `size` is its size in bytes;
    `content_type` a blob's; `sha256` tells whether a copy at hand is still good."""

    __slots__ = ("_fetch", "content_type", "key", "sha256", "size")

    def __init__(self, key: str, stub: state_service_pb2.ValueStub, fetch: Fetch) -> None:
        self.key: str = key
        self._fetch = fetch
        self.content_type: str = stub.content_type
        self.size: int = stub.size_bytes
        self.sha256: bytes = stub.sha256

    def fetch(self) -> Any:
        """The value, or the newer one that has replaced it since; to be awaited with an
        AsyncClient. Raises NotFound where the key is gone."""
        return self._fetch(self.key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LargeValue):
            return NotImplemented
        mine, its = (self.key, self.size, self.sha256), (other.key, other.size, other.sha256)
        return mine == its and self.content_type == other.content_type

    __hash__: ClassVar[None] = None  # pyright: ignore[reportIncompatibleMethodOverride]

    def __repr__(self) -> str:
        return f"<LargeValue {self.key!r} {self.content_type} {self.size} bytes>"


class Entry:
    """One key of a state. `mod_revision` is the revision of its last change; `source` who made
    that: a task's name, or the caller's identity; `deleted`: the key is gone."""

    __slots__ = ("_encoded", "_value", "deleted", "key", "mod_revision", "source")

    def __init__(self, proto: Any, fetch: Fetch) -> None:
        self.key: str = proto.key
        self.mod_revision: int = proto.mod_revision
        self.source: str = proto.source
        self.deleted: bool = False
        self._encoded: bytes | None = None
        self._value: Any = None
        # A part of a message keeps all of it alive, so nothing of it is kept.
        if proto.HasField("value"):
            if proto.value.WhichOneof("kind") in ("list", "map"):
                self._encoded = proto.value.SerializeToString()
            else:
                self._value = from_value(proto.value)
        elif proto.HasField("stub"):
            self._value = LargeValue(self.key, proto.stub, fetch)
        else:
            self.deleted = True

    @property
    def value(self) -> Any:
        """The value, or a LargeValue in place of it; None where the key is gone. Lists and maps are
        decoded when first asked for."""
        if self._encoded is not None:
            self._value = from_value(common_pb2.Value.FromString(self._encoded))
            self._encoded = None
        return self._value

    def equals(self, other: Entry) -> bool:
        """Whether it is the same change."""
        return self.mod_revision == other.mod_revision and self.value == other.value

    def __repr__(self) -> str:
        return f"<Entry {self.key!r} deleted={self.deleted} mod_revision={self.mod_revision}>"


class StateView(Mapping[str, Any]):
    """A state's keys and values at one revision."""

    def __init__(self, name: str, state_revision: int | None = None) -> None:
        self.name = name
        self.position = Position()
        self._state_revision = state_revision
        self._entries: dict[str, Entry] = {}

    @property
    def id(self) -> str:
        """The last part of the name."""
        return _names.short_name(self.name)

    @property
    def revision(self) -> int:
        """The revision that the view stands at; of one that was read, the state's own, which is
        what `update_state` takes as `expected_revision`."""
        return self.position.revision if self._state_revision is None else self._state_revision

    def entry(self, key: str) -> Entry:
        """The key's value with what is known of it. Raises KeyError."""
        return self._entries[key]

    def entries(self) -> list[Entry]:
        """All keys."""
        return list(self._entries.values())

    def apply(self, change: Entry) -> None:
        """For the watch."""
        if change.deleted:
            self._entries.pop(change.key, None)
        else:
            self._entries[change.key] = change

    def since(self, before: StateView) -> list[Entry]:
        """For the watch: the changes that lead from another view to this one."""
        changes: list[Entry] = []
        for entry in self._entries.values():
            held = before._entries.get(entry.key)
            if held is None or not entry.equals(held):
                changes.append(entry)
        for key in before._entries.keys() - self._entries.keys():
            gone = state_service_pb2.KeyChange(key=key, deleted=True)
            changes.append(Entry(gone, _no_fetch))
        return changes

    def stand_at(self, position: Position) -> None:
        """For the watch."""
        self.position: Position = position

    def __getitem__(self, key: str) -> Any:
        return self._entries[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        # Without values: they may be large, or secret.
        return f"<StateView {self.name} {len(self)} keys at revision {self.revision}>"


def _no_fetch(key: str) -> Any:
    raise KeyError(key)


@dataclasses.dataclass(frozen=True)
class RemovedTask:
    """A task that a watch does not follow any more: it was deleted after its retention, or does not
    match (`deleted` is False)."""

    name: str
    last_status: TaskStatus
    deleted: bool


class TaskView(Mapping[str, Task]):
    """Tasks by their full names at one revision. Inputs and outputs are in it only if they are
    small."""

    def __init__(self) -> None:
        self.position = Position()
        self._tasks: dict[str, Task] = {}

    @property
    def revision(self) -> int:
        """The revision that the view stands at."""
        return self.position.revision

    def apply(self, change: Task | RemovedTask) -> None:
        """For the watch."""
        if isinstance(change, Task):
            self._tasks[change.name] = change
        else:
            self._tasks.pop(change.name, None)

    def since(self, before: TaskView) -> list[Task | RemovedTask]:
        """For the watch: the changes that lead from another view to this one."""
        held = before._tasks
        changes: list[Task | RemovedTask] = [
            task for name, task in self._tasks.items() if held.get(name) != task
        ]
        gone = held.keys() - self._tasks.keys()
        changes.extend(RemovedTask(name, held[name].status, deleted=True) for name in gone)
        return changes

    def stand_at(self, position: Position) -> None:
        """For the watch."""
        self.position: Position = position

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"<TaskView {len(self)} tasks at revision {self.revision}>"


@dataclasses.dataclass(frozen=True)
class StateEvent:
    """A state has changed, or was seen for the first time. `folded_commits` is how many commits the
    changes stand for; 0 where they come from a whole snapshot."""

    changes: Sequence[Entry]
    view: StateView
    position: Position
    folded_commits: int

    @property
    def revision(self) -> int:
        """The revision that the view stands at."""
        return self.position.revision


@dataclasses.dataclass(frozen=True)
class TaskEvent:
    """Tasks have changed, or were seen for the first time; `removed` are followed no more."""

    changes: Sequence[Task]
    removed: Sequence[RemovedTask]
    view: TaskView
    position: Position
    folded_commits: int

    @property
    def revision(self) -> int:
        """The revision that the view stands at."""
        return self.position.revision


@dataclasses.dataclass(frozen=True)
class StateKind:
    """A watch of one state."""

    name: str
    keys: Sequence[str]
    prefixes: Sequence[str]
    inline_limit: int
    fetch: Fetch

    method: ClassVar[
        Method[state_service_pb2.WatchStateRequest, state_service_pb2.WatchStateResponse]
    ] = _requests.WATCH_STATE
    may_end = False

    @classmethod
    def of(
        cls,
        name: str,
        keys: str | Iterable[str] | None,
        prefixes: str | Iterable[str] | None,
        inline_limit: int,
        fetch: Fetch,
    ) -> StateKind:
        """From what a caller gives."""
        return cls(name, _requests.texts(keys), _requests.texts(prefixes), inline_limit, fetch)

    def request(self, options: watch_pb2.WatchOptions) -> state_service_pb2.WatchStateRequest:
        """The request that opens a stream."""
        request = state_service_pb2.WatchStateRequest(
            names=[self.name], options=options, inline_limit_bytes=self.inline_limit
        )
        if self.keys or self.prefixes:
            request.keys.exact.extend(self.keys)
            request.keys.prefixes.extend(self.prefixes)
        return request

    def empty(self) -> StateView:
        """A view of nothing."""
        return StateView(self.name)

    def changes(self, part: Any) -> list[Entry]:
        """What a snapshot's or a delta's part says."""
        is_delta = isinstance(part, state_service_pb2.StateDelta)
        found = part.changes if is_delta else part.entries
        return [Entry(change, self.fetch) for change in found if change.WhichOneof("change")]


@dataclasses.dataclass(frozen=True)
class TaskKind:
    """A watch of the tasks that match."""

    namespace: str
    filter: task_service_pb2.TaskFilter
    until_terminal: bool = False
    expected: int = 0

    method: ClassVar[
        Method[task_service_pb2.WatchTasksRequest, task_service_pb2.WatchTasksResponse]
    ] = _requests.WATCH_TASKS

    @property
    def may_end(self) -> bool:
        """Whether the caller asked for an end."""
        return self.until_terminal

    def request(self, options: watch_pb2.WatchOptions) -> task_service_pb2.WatchTasksRequest:
        """The request that opens a stream."""
        return task_service_pb2.WatchTasksRequest(
            parent=_requests.parent(self.namespace),
            filter=self.filter,
            options=options,
            until_terminal=self.until_terminal,
            expected_tasks=self.expected,
        )

    def empty(self) -> TaskView:
        """A view of nothing."""
        return TaskView()

    def changes(self, part: Any) -> list[Task | RemovedTask]:
        """What a snapshot's or a delta's part says."""
        if not isinstance(part, task_service_pb2.TaskDelta):
            return [_alone(task) for task in part.tasks]
        changes: list[Task | RemovedTask] = [_alone(task) for task in part.changed]
        for gone in part.removed:
            deleted = gone.reason == task_service_pb2.RemovedTask.REASON_DELETED
            changes.append(RemovedTask(gone.name, TaskStatus(gone.last_status), deleted))
        return changes


def _alone(task: task_service_pb2.Task) -> Task:
    # A part of a message keeps all of it alive.
    copy = task_service_pb2.Task()
    copy.CopyFrom(task)
    return Task(copy)


def state_event(shown: Shown[Entry, StateView]) -> StateEvent:
    """As the user has it."""
    return StateEvent(shown.changes, shown.view, shown.position, shown.folded_commits)


def task_event(shown: Shown[Task | RemovedTask, TaskView]) -> TaskEvent:
    """As the user has it."""
    changed = [change for change in shown.changes if isinstance(change, Task)]
    removed = [change for change in shown.changes if isinstance(change, RemovedTask)]
    return TaskEvent(changed, removed, shown.view, shown.position, shown.folded_commits)


def read_state(answer: state_service_pb2.GetStateResponse) -> StateView:
    """A state as it was read."""
    view = StateView(answer.state.name, answer.state.revision)
    for entry in answer.state.entries:
        view.apply(Entry(entry, _no_fetch))
    view.stand_at(Position.of(answer.position))
    return view
