"""Tasks as Python has them: what to submit, what was read, and where it stands."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from google.protobuf.timestamp_pb2 import Timestamp

from duite import _names, _payloads
from duite.errors import FailedPrecondition, TaskCancelled, TaskFailed
from duite.v1 import common_pb2, task_service_pb2

__all__ = ["Attempt", "NewTask", "Position", "Task", "TaskStatus"]

Seconds = float | datetime.timedelta


class TaskStatus(enum.Enum):
    """Where a task stands. The last three are terminal: they never change."""

    UNKNOWN = 0
    SCHEDULED = 1
    QUEUED = 2
    RUNNING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6

    @classmethod
    def _missing_(cls, value: object) -> TaskStatus:
        # One that a newer server knows.
        return cls.UNKNOWN

    @property
    def is_terminal(self) -> bool:
        """Whether the task has ended."""
        return self in (TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED)


Statuses = TaskStatus | str | Iterable[TaskStatus | str]


@dataclasses.dataclass(frozen=True)
class Position:
    """A point in a namespace's history. Revisions compare within one namespace only; `token` is
    what reads and watches take to begin there."""

    revision: int = 0
    token: bytes = b""

    @classmethod
    def of(cls, proto: common_pb2.Position) -> Position:
        """As the API carries it."""
        return cls(proto.revision, proto.resume_token)


@dataclasses.dataclass
class NewTask:
    """A task to submit. Times are in seconds; what is None or 0 has the server's default.

    `input` is sent as JSON; bytes as they are; a `duite.Blob` with its content type. `request_id`,
    a new UUID unless given, makes submitting it again answer with the same task: a `NewTask` is one
    task however often it is submitted. So does a `task_id`, as long as all else is the same.
    """

    type: str
    input: Any = None
    _: dataclasses.KW_ONLY
    queue: str = ""
    state: str | None = None
    task_id: str = ""
    request_id: str = ""
    labels: Mapping[str, str] | None = None
    priority: int = 0
    delay: Seconds | None = None
    schedule_time: datetime.datetime | None = None
    fairness_key: str = ""
    concurrency_key: str = ""
    max_attempts: int = 0
    attempt_timeout: Seconds | None = None
    total_timeout: Seconds | None = None
    lease_duration: Seconds | None = None
    retry_initial_delay: Seconds | None = None
    retry_max_delay: Seconds | None = None
    retention: Seconds | None = None
    cancel_grace: Seconds | None = None

    def __post_init__(self) -> None:
        self.request_id = self.request_id or str(uuid.uuid4())


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One run of a task on one worker. `end_time` is None while it runs, `failure` unless it
    failed."""

    number: int
    worker_id: str
    start_time: datetime.datetime | None
    end_time: datetime.datetime | None
    failure: common_pb2.Failure | None

    @classmethod
    def of(cls, proto: task_service_pb2.Attempt) -> Attempt:
        """As the API carries it."""
        failure = proto.failure if proto.HasField("failure") else None
        start, end = _time(proto, "start_time"), _time(proto, "end_time")
        return cls(proto.number, proto.worker_id, start, end, failure)


@dataclasses.dataclass(frozen=True, repr=False)
class Task:
    """A task as it was when it was read. `proto` is all of it as the API carries it."""

    proto: task_service_pb2.Task

    @property
    def name(self) -> str:
        """`namespaces/{namespace}/tasks/{id}`."""
        return self.proto.name

    @property
    def id(self) -> str:
        """The last part of its name."""
        return _names.short_name(self.proto.name)

    @property
    def uid(self) -> str:
        """UUID of this task; another one's when the name is used again."""
        return self.proto.uid

    @property
    def type(self) -> str:
        """What a worker must know how to run."""
        return self.proto.type

    @property
    def queue(self) -> str:
        """The line that it waits in."""
        return self.proto.queue

    @property
    def status(self) -> TaskStatus:
        """Where it stands."""
        return TaskStatus(self.proto.status)

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status.is_terminal

    @property
    def input(self) -> Any:
        """What it works on, decoded. FailedPrecondition where a list left it out."""
        return _payload(self.proto, "input")

    @property
    def output(self) -> Any:
        """What it gave, decoded; None before. FailedPrecondition where a list left it out."""
        return _payload(self.proto, "output")

    @property
    def failure(self) -> common_pb2.Failure | None:
        """The last failure, also while a retry is pending."""
        return self.proto.failure if self.proto.HasField("failure") else None

    @property
    def labels(self) -> dict[str, str]:
        """For filters and people."""
        return dict(self.proto.labels)

    @property
    def state(self) -> str | None:
        """The id of the state that it reports to."""
        return _names.short_name(self.proto.state_name) or None

    @property
    def priority(self) -> int:
        """0 to 9, higher first."""
        return self.proto.priority

    @property
    def attempt(self) -> int:
        """The present or last attempt, from 1; 0: never leased."""
        return self.proto.attempt

    @property
    def attempts(self) -> list[Attempt]:
        """The last 10, newest last."""
        return [Attempt.of(attempt) for attempt in self.proto.attempts]

    @property
    def worker_id(self) -> str:
        """The worker of the present or last attempt; empty: never leased."""
        return self.proto.worker_id

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody has asked it to stop."""
        return self.proto.cancel_requested

    @property
    def retry_of(self) -> str | None:
        """The full name of the task that this one repeats."""
        return self.proto.retry_of or None

    @property
    def queue_position(self) -> int:
        """About where it waits, from 1; 0: it does not, or not known. `Client.get` alone knows."""
        return self.proto.queue_position

    @property
    def create_time(self) -> datetime.datetime | None:
        """When it was created. All times are by the server's clock, in UTC."""
        return _time(self.proto, "create_time")

    @property
    def schedule_time(self) -> datetime.datetime | None:
        """Not to be handed out before."""
        return _time(self.proto, "schedule_time")

    @property
    def start_time(self) -> datetime.datetime | None:
        """When the present or last attempt started."""
        return _time(self.proto, "start_time")

    @property
    def end_time(self) -> datetime.datetime | None:
        """When it ended."""
        return _time(self.proto, "end_time")

    @property
    def expire_time(self) -> datetime.datetime | None:
        """When it will be deleted; None before its end."""
        return _time(self.proto, "expire_time")

    @property
    def revision(self) -> int:
        """Of its last change."""
        return self.proto.revision

    def result(self) -> Any:
        """The output of a task that has ended. Raises TaskFailed or TaskCancelled where it did not
        succeed, and FailedPrecondition where it has not ended."""
        if self.status is TaskStatus.FAILED:
            raise TaskFailed(self.name, self.proto.failure)
        if self.status is TaskStatus.CANCELLED:
            raise TaskCancelled(self.name)
        if not self.is_terminal:
            raise FailedPrecondition(
                f"task {self.name} has not ended, it is {self.status.name}: wait for it",
                code="FAILED_PRECONDITION",
            )
        return self.output

    def is_whole(self) -> bool:
        """Whether nothing was left out of it that a result needs."""
        left_out = _payloads.is_left_out(self.proto.output)
        return not left_out and self.status is not TaskStatus.FAILED

    def __repr__(self) -> str:
        # Without input and output: they may be large, or secret.
        return f"<Task {self.name} {self.type} {self.status.name}>"


def _payload(task: task_service_pb2.Task, field: Literal["input", "output"]) -> Any:
    if not task.HasField(field):
        return None
    return _payloads.from_payload(getattr(task, field), f"{field} of {task.name}")


def _time(message: Any, field: str) -> datetime.datetime | None:
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    return stamp.ToDatetime(tzinfo=datetime.timezone.utc)
