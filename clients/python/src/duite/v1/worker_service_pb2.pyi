from duite.v1 import common_pb2 as _common_pb2
from duite.v1 import state_service_pb2 as _state_service_pb2
from duite.v1 import task_service_pb2 as _task_service_pb2
from duite.v1 import watch_pb2 as _watch_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseTasksRequest(_message.Message):
    __slots__ = ("parent", "queues", "task_types", "max_tasks", "wait", "worker_id", "instance_uid")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPES_FIELD_NUMBER: _ClassVar[int]
    MAX_TASKS_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    queues: _containers.RepeatedScalarFieldContainer[str]
    task_types: _containers.RepeatedScalarFieldContainer[str]
    max_tasks: int
    wait: _duration_pb2.Duration
    worker_id: str
    instance_uid: str
    def __init__(self, parent: _Optional[str] = ..., queues: _Optional[_Iterable[str]] = ..., task_types: _Optional[_Iterable[str]] = ..., max_tasks: _Optional[int] = ..., wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., worker_id: _Optional[str] = ..., instance_uid: _Optional[str] = ...) -> None: ...

class LeaseTasksResponse(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[Lease]
    def __init__(self, leases: _Optional[_Iterable[_Union[Lease, _Mapping]]] = ...) -> None: ...

class Lease(_message.Message):
    __slots__ = ("task", "lease_token", "valid_for", "renew_interval", "trace_context")
    TASK_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_FIELD_NUMBER: _ClassVar[int]
    RENEW_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    TRACE_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    task: _task_service_pb2.Task
    lease_token: bytes
    valid_for: _duration_pb2.Duration
    renew_interval: _duration_pb2.Duration
    trace_context: _common_pb2.TraceContext
    def __init__(self, task: _Optional[_Union[_task_service_pb2.Task, _Mapping]] = ..., lease_token: _Optional[bytes] = ..., valid_for: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., renew_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., trace_context: _Optional[_Union[_common_pb2.TraceContext, _Mapping]] = ...) -> None: ...

class RenewLeasesRequest(_message.Message):
    __slots__ = ("lease_tokens", "worker_id", "instance_uid")
    LEASE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    lease_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    worker_id: str
    instance_uid: str
    def __init__(self, lease_tokens: _Optional[_Iterable[bytes]] = ..., worker_id: _Optional[str] = ..., instance_uid: _Optional[str] = ...) -> None: ...

class RenewLeasesResponse(_message.Message):
    __slots__ = ("statuses",)
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedCompositeFieldContainer[LeaseStatus]
    def __init__(self, statuses: _Optional[_Iterable[_Union[LeaseStatus, _Mapping]]] = ...) -> None: ...

class LeaseStatus(_message.Message):
    __slots__ = ("disposition", "valid_for")
    class Disposition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DISPOSITION_UNSPECIFIED: _ClassVar[LeaseStatus.Disposition]
        DISPOSITION_HELD: _ClassVar[LeaseStatus.Disposition]
        DISPOSITION_CANCEL_REQUESTED: _ClassVar[LeaseStatus.Disposition]
        DISPOSITION_LOST: _ClassVar[LeaseStatus.Disposition]
    DISPOSITION_UNSPECIFIED: LeaseStatus.Disposition
    DISPOSITION_HELD: LeaseStatus.Disposition
    DISPOSITION_CANCEL_REQUESTED: LeaseStatus.Disposition
    DISPOSITION_LOST: LeaseStatus.Disposition
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    VALID_FOR_FIELD_NUMBER: _ClassVar[int]
    disposition: LeaseStatus.Disposition
    valid_for: _duration_pb2.Duration
    def __init__(self, disposition: _Optional[_Union[LeaseStatus.Disposition, str]] = ..., valid_for: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchLeasesRequest(_message.Message):
    __slots__ = ("parent", "worker_id", "instance_uid")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    parent: str
    worker_id: str
    instance_uid: str
    def __init__(self, parent: _Optional[str] = ..., worker_id: _Optional[str] = ..., instance_uid: _Optional[str] = ...) -> None: ...

class WatchLeasesResponse(_message.Message):
    __slots__ = ("directive", "bookmark", "closing")
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    directive: LeaseDirective
    bookmark: _watch_pb2.WatchBookmark
    closing: _watch_pb2.WatchClosing
    def __init__(self, directive: _Optional[_Union[LeaseDirective, _Mapping]] = ..., bookmark: _Optional[_Union[_watch_pb2.WatchBookmark, _Mapping]] = ..., closing: _Optional[_Union[_watch_pb2.WatchClosing, _Mapping]] = ...) -> None: ...

class LeaseDirective(_message.Message):
    __slots__ = ("lease_token", "disposition", "reason")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    DISPOSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    disposition: LeaseStatus.Disposition
    reason: str
    def __init__(self, lease_token: _Optional[bytes] = ..., disposition: _Optional[_Union[LeaseStatus.Disposition, str]] = ..., reason: _Optional[str] = ...) -> None: ...

class FinishTasksRequest(_message.Message):
    __slots__ = ("outcomes", "request_id")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[TaskOutcome]
    request_id: str
    def __init__(self, outcomes: _Optional[_Iterable[_Union[TaskOutcome, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class TaskOutcome(_message.Message):
    __slots__ = ("lease_token", "output", "failure", "cancelled", "flushed", "contributions")
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    FLUSHED_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    lease_token: bytes
    output: _common_pb2.Payload
    failure: _common_pb2.Failure
    cancelled: bool
    flushed: _containers.RepeatedCompositeFieldContainer[WriterMark]
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    def __init__(self, lease_token: _Optional[bytes] = ..., output: _Optional[_Union[_common_pb2.Payload, _Mapping]] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., cancelled: bool = ..., flushed: _Optional[_Iterable[_Union[WriterMark, _Mapping]]] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("state_name", "updates")
    STATE_NAME_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    state_name: str
    updates: _containers.RepeatedCompositeFieldContainer[_state_service_pb2.KeyUpdate]
    def __init__(self, state_name: _Optional[str] = ..., updates: _Optional[_Iterable[_Union[_state_service_pb2.KeyUpdate, _Mapping]]] = ...) -> None: ...

class WriterMark(_message.Message):
    __slots__ = ("state_name", "writer_id", "sequence")
    STATE_NAME_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    state_name: str
    writer_id: str
    sequence: int
    def __init__(self, state_name: _Optional[str] = ..., writer_id: _Optional[str] = ..., sequence: _Optional[int] = ...) -> None: ...

class FinishTasksResponse(_message.Message):
    __slots__ = ("results", "position")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[OutcomeResult]
    position: _common_pb2.Position
    def __init__(self, results: _Optional[_Iterable[_Union[OutcomeResult, _Mapping]]] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class OutcomeResult(_message.Message):
    __slots__ = ("task", "error")
    TASK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    task: _task_service_pb2.Task
    error: _status_pb2.Status
    def __init__(self, task: _Optional[_Union[_task_service_pb2.Task, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ReleaseLeasesRequest(_message.Message):
    __slots__ = ("lease_tokens",)
    LEASE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    lease_tokens: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, lease_tokens: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReleaseLeasesResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
