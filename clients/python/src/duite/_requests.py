"""What both clients say and hear: the calls, their requests from Python's words, and the reading of
their answers. Pure: no connection, no clock."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.duration_pb2 import Duration

from duite import _names, _payloads
from duite._call import Method
from duite._values import from_value, to_value
from duite.errors import (
    DuiteError,
    InternalError,
    InvalidArgument,
    NotFound,
    ValueTooLarge,
    from_status,
)
from duite.tasks import NewTask, Position, Seconds, Task, TaskStatus
from duite.v1 import common_pb2, watch_pb2
from duite.v1 import error_service_pb2 as errors
from duite.v1 import state_service_pb2 as states
from duite.v1 import system_service_pb2 as system
from duite.v1 import task_service_pb2 as tasks

TaskFilter = tasks.TaskFilter

# Items that one call of a list asks for.
PAGE = 500
# The API's limits for one BatchCreateTasks: tasks, and bytes (4 MiB, less some for the rest).
MOST_TASKS = 1000
MOST_BYTES = 3 << 20
# The API's limit for the names of one filter.
MOST_NAMES = 256

_TASKS = "/duite.v1.TaskService/"
_STATES = "/duite.v1.StateService/"
_ERRORS = "/duite.v1.ErrorService/"

CREATE_TASK = Method(
    _TASKS + "CreateTask", tasks.CreateTaskRequest, tasks.CreateTaskResponse, "submit a task"
)
BATCH_CREATE_TASKS = Method(
    _TASKS + "BatchCreateTasks",
    tasks.BatchCreateTasksRequest,
    tasks.BatchCreateTasksResponse,
    "submit tasks",
)
GET_TASK = Method(_TASKS + "GetTask", tasks.GetTaskRequest, tasks.GetTaskResponse, "read a task")
LIST_TASKS = Method(
    _TASKS + "ListTasks", tasks.ListTasksRequest, tasks.ListTasksResponse, "list tasks"
)
CANCEL_TASK = Method(
    _TASKS + "CancelTask", tasks.CancelTaskRequest, tasks.CancelTaskResponse, "cancel a task"
)
RETRY_TASKS = Method(
    _TASKS + "RetryTasks", tasks.RetryTasksRequest, tasks.RetryTasksResponse, "retry tasks"
)
WATCH_TASKS = Method(
    _TASKS + "WatchTasks", tasks.WatchTasksRequest, tasks.WatchTasksResponse, "watch tasks"
)
GET_STATE = Method(
    _STATES + "GetState", states.GetStateRequest, states.GetStateResponse, "read a state"
)
LIST_STATES = Method(
    _STATES + "ListStates", states.ListStatesRequest, states.ListStatesResponse, "list states"
)
UPDATE_STATE = Method(
    _STATES + "UpdateState", states.UpdateStateRequest, states.UpdateStateResponse, "update a state"
)
DELETE_STATE = Method(
    _STATES + "DeleteState", states.DeleteStateRequest, states.DeleteStateResponse, "delete a state"
)
WATCH_STATE = Method(
    _STATES + "WatchState", states.WatchStateRequest, states.WatchStateResponse, "watch a state"
)
LIST_ERRORS = Method(
    _ERRORS + "ListErrorGroups",
    errors.ListErrorGroupsRequest,
    errors.ListErrorGroupsResponse,
    "list errors",
)
GET_INFO = Method(
    "/duite.v1.SystemService/GetServerInfo",
    system.GetServerInfoRequest,
    system.GetServerInfoResponse,
    "ask the server about itself",
)


def parent(namespace: str) -> str:
    """A namespace as requests name it."""
    return f"namespaces/{namespace}"


def duration(value: Seconds | None, what: str) -> Duration | None:
    """Seconds as a message; None stays None."""
    if value is None:
        return None
    seconds = value.total_seconds() if isinstance(value, datetime.timedelta) else value
    wire = Duration()
    try:
        wire.FromNanoseconds(round(seconds * 1e9))
    except (TypeError, ValueError, OverflowError):
        raise refused(f"{what} is {value!r}: give seconds as a number, or a timedelta") from None
    return wire


def refused(message: str) -> InvalidArgument:
    """What the caller gave cannot be sent."""
    return InvalidArgument(message, reason="FIELD_INVALID", code="INVALID_ARGUMENT")


def new_task(new: NewTask, namespace: str) -> tasks.CreateTaskRequest:
    """The request that submits it."""
    policy = tasks.TaskPolicy(
        max_attempts=new.max_attempts,
        attempt_timeout=duration(new.attempt_timeout, "attempt_timeout"),
        total_timeout=duration(new.total_timeout, "total_timeout"),
        lease_duration=duration(new.lease_duration, "lease_duration"),
        retry_initial_delay=duration(new.retry_initial_delay, "retry_initial_delay"),
        retry_max_delay=duration(new.retry_max_delay, "retry_max_delay"),
        retention=duration(new.retention, "retention"),
        cancel_grace=duration(new.cancel_grace, "cancel_grace"),
    )
    try:
        task = tasks.Task(
            type=new.type,
            queue=new.queue,
            input=_payloads.to_payload(new.input),
            labels=new.labels,
            policy=policy,
            priority=new.priority,
            fairness_key=new.fairness_key,
            concurrency_key=new.concurrency_key,
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, DuiteError):
            raise
        raise refused(f"a field of the task is of a wrong type: {error}") from None
    if new.state:
        task.state_name = _names.full_name(new.state, namespace, "states")
    if new.schedule_time is not None:
        if new.schedule_time.tzinfo is None:
            raise refused(
                f"schedule_time is {new.schedule_time}, without a time zone: give one, such as "
                "datetime.now(timezone.utc)"
            )
        task.schedule_time.FromDatetime(new.schedule_time)
    return tasks.CreateTaskRequest(
        parent=parent(namespace),
        task_id=new.task_id,
        task=task,
        request_id=new.request_id,
        delay=duration(new.delay, "delay"),
    )


def batches(requests: Iterable[tasks.CreateTaskRequest]) -> Iterator[list[tasks.CreateTaskRequest]]:
    """In parts that one call carries. One too heavy by itself goes alone, for the server to
    refuse."""
    batch: list[tasks.CreateTaskRequest] = []
    weight = 0
    for request in requests:
        size = request.ByteSize() + 8
        if batch and (len(batch) == MOST_TASKS or weight + size > MOST_BYTES):
            yield batch
            batch, weight = [], 0
        batch.append(request)
        weight += size
    if batch:
        yield batch


def created(result: tasks.CreateTaskResult, doing: str) -> Task | DuiteError:
    """What became of one of several tasks."""
    if result.HasField("task"):
        return Task(result.task)
    if result.HasField("error"):
        return from_status(result.error, doing)
    return InternalError(f"cannot {doing}: the answer has no task", code="INTERNAL")


def task_filter(
    namespace: str,
    names: Iterable[str] | None = None,
    status: TaskStatus | str | Iterable[TaskStatus | str] | None = None,
    queues: str | Iterable[str] | None = None,
    labels: Mapping[str, str] | None = None,
    trace_id: str = "",
) -> tasks.TaskFilter:
    """The filter; what is None matches all. InvalidArgument for an empty list, which the service
    would take for all."""
    statuses = [status] if isinstance(status, (TaskStatus, str)) else status or ()
    found = tasks.TaskFilter(
        names=[_names.full_name(name, namespace, "tasks") for name in texts(names)],
        statuses=[_status(one).value for one in statuses],  # pyright: ignore[reportArgumentType]
        queues=texts(queues),
        labels=labels,
        trace_id=trace_id,
    )
    for what, given, items in (
        ("names", names, found.names),
        ("status", status, found.statuses),
        ("queues", queues, found.queues),
    ):
        if given is not None and not items:
            raise refused(f"{what} is empty, so nothing would match: leave it out to match all")
    return found


def texts(given: str | Iterable[str] | None) -> list[str]:
    """One, several or none, as a list."""
    return [given] if isinstance(given, str) else list(given or ())


def _status(given: TaskStatus | str) -> TaskStatus:
    if isinstance(given, TaskStatus):
        return given
    try:
        return TaskStatus[given.upper()]
    except KeyError:
        known = ", ".join(status.name.lower() for status in TaskStatus if status.value)
        raise refused(f"{given!r} is not the status of a task: {known}") from None


def update_state(
    name: str,
    put: Mapping[str, Any] | None,
    add: Mapping[str, float] | None,
    most: Mapping[str, float] | None,
    least: Mapping[str, float] | None,
    delete: Iterable[str],
    expected_revision: int,
    request_id: str,
) -> states.UpdateStateRequest:
    """The request that writes one batch."""
    updates = [states.KeyUpdate(key=key, put=to_value(value)) for key, value in (put or {}).items()]
    for operation, values in (("add", add), ("max", most), ("min", least)):
        for key, value in (values or {}).items():
            update = states.KeyUpdate(key=key)
            getattr(update, operation).CopyFrom(to_value(value))
            updates.append(update)
    updates.extend(states.KeyUpdate(key=key, delete=True) for key in texts(delete))
    if not updates:
        raise refused("there is nothing to update: give values, add=, max=, min= or delete=")
    return states.UpdateStateRequest(
        name=name, updates=updates, request_id=request_id, expected_revision=expected_revision
    )


def updated(answer: states.UpdateStateResponse) -> Position:
    """Where it took effect. Raises for the first key that was not accepted."""
    if answer.rejected:
        told = ", ".join(f"{key.key!r} ({key.reason})" for key in answer.rejected[:8])
        kind = ValueTooLarge if answer.rejected[0].reason == "VALUE_TOO_LARGE" else InvalidArgument
        raise kind(
            f"{len(answer.rejected)} keys were not accepted, the others have taken effect: {told}",
            reason=answer.rejected[0].reason,
            code="INVALID_ARGUMENT",
            metadata={key.key: key.reason for key in answer.rejected},
        )
    return Position.of(answer.position)


def position_token(position: Position | common_pb2.Position | None) -> bytes:
    """The token of it; none: no position."""
    if position is None:
        return b""
    return position.token if isinstance(position, Position) else position.resume_token


def batch(requests: list[tasks.CreateTaskRequest], namespace: str) -> tasks.BatchCreateTasksRequest:
    """Several of them in one call."""
    return tasks.BatchCreateTasksRequest(parent=parent(namespace), requests=requests)


def list_tasks(namespace: str, found: TaskFilter) -> tasks.ListTasksRequest:
    """The first page."""
    return tasks.ListTasksRequest(parent=parent(namespace), filter=found, page_size=PAGE)


def cancel_task(name: str, reason: str) -> tasks.CancelTaskRequest:
    """The request that asks a task to stop."""
    return tasks.CancelTaskRequest(name=name, reason=reason, request_id=str(uuid.uuid4()))


def retry_tasks(namespace: str, found: TaskFilter, request_id: str) -> tasks.RetryTasksRequest:
    """The first of the calls that repeat tasks."""
    request_id = request_id or str(uuid.uuid4())
    return tasks.RetryTasksRequest(parent=parent(namespace), filter=found, request_id=request_id)


def get_state(
    name: str, keys: str | Iterable[str] | None, min_position: Position | None = None
) -> states.GetStateRequest:
    """The request that reads a state."""
    return states.GetStateRequest(
        name=name, keys=texts(keys), min_position=position_token(min_position)
    )


def only_value(answer: states.GetStateResponse, key: str) -> Any:
    """The value of the one key that was asked for."""
    for entry in answer.state.entries:
        if entry.key == key:
            return from_value(entry.value)
    raise NotFound(f"the key {key!r} of {answer.state.name} is gone", code="NOT_FOUND")


def list_states(namespace: str) -> states.ListStatesRequest:
    """The first page."""
    return states.ListStatesRequest(parent=parent(namespace), page_size=PAGE)


def list_errors(namespace: str) -> errors.ListErrorGroupsRequest:
    """The first page."""
    return errors.ListErrorGroupsRequest(parent=parent(namespace), page_size=PAGE)


def watch_options(interval: float | None, updates_only: bool) -> watch_pb2.WatchOptions:
    """How a watch paces itself."""
    return watch_pb2.WatchOptions(
        min_delta_interval=duration(interval, "interval"), updates_only=updates_only
    )


INFO = system.GetServerInfoRequest()


@dataclasses.dataclass(frozen=True)
class ServerInfo:
    """What a server says about itself. Decide by `features`, not by the version; sizes are in
    bytes. `proto` has all of it."""

    version: str
    features: tuple[str, ...]
    store_epoch: str
    durability: str
    max_message_bytes: int
    max_value_bytes: int
    proto: system.GetServerInfoResponse = dataclasses.field(repr=False)

    @classmethod
    def of(cls, proto: system.GetServerInfoResponse) -> ServerInfo:
        """As the API carries it."""
        return cls(
            proto.version,
            tuple(proto.features),
            proto.store_epoch,
            proto.durability,
            proto.max_message_bytes,
            proto.max_value_bytes,
            proto,
        )


@dataclasses.dataclass(frozen=True)
class ErrorGroup:
    """Failures taken for the same one. `last_task` is the full name of the task that it last
    occurred in, empty outside of tasks; `location` the innermost frame of the task's own code."""

    fingerprint: str
    task_type: str
    failure_type: str
    location: str
    count: int
    last_task: str
    last_failure: common_pb2.Failure
    first_time: datetime.datetime
    last_time: datetime.datetime

    @classmethod
    def of(cls, proto: errors.ErrorGroup) -> ErrorGroup:
        """As the API carries it."""
        utc = datetime.timezone.utc
        return cls(
            proto.fingerprint,
            proto.task_type,
            proto.failure_type,
            proto.location,
            proto.count,
            proto.last_task,
            proto.last_failure,
            proto.first_time.ToDatetime(tzinfo=utc),
            proto.last_time.ToDatetime(tzinfo=utc),
        )
