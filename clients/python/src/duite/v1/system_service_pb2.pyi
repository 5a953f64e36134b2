from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "features", "max_message_bytes", "max_value_bytes", "history_window", "max_frame_bytes", "max_key_bytes", "max_keys_per_state", "store_epoch", "durability")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_FRAME_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_KEY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_KEYS_PER_STATE_FIELD_NUMBER: _ClassVar[int]
    STORE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    version: str
    features: _containers.RepeatedScalarFieldContainer[str]
    max_message_bytes: int
    max_value_bytes: int
    history_window: _duration_pb2.Duration
    max_frame_bytes: int
    max_key_bytes: int
    max_keys_per_state: int
    store_epoch: str
    durability: str
    def __init__(self, version: _Optional[str] = ..., features: _Optional[_Iterable[str]] = ..., max_message_bytes: _Optional[int] = ..., max_value_bytes: _Optional[int] = ..., history_window: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., max_frame_bytes: _Optional[int] = ..., max_key_bytes: _Optional[int] = ..., max_keys_per_state: _Optional[int] = ..., store_epoch: _Optional[str] = ..., durability: _Optional[str] = ...) -> None: ...

class BackupJournalRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class BackupJournalResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ListBackgroundJobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBackgroundJobsResponse(_message.Message):
    __slots__ = ("jobs", "pending")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[BackgroundJob]
    pending: int
    def __init__(self, jobs: _Optional[_Iterable[_Union[BackgroundJob, _Mapping]]] = ..., pending: _Optional[int] = ...) -> None: ...

class BackgroundJob(_message.Message):
    __slots__ = ("name", "kind", "restarts", "last_failure", "failures", "running", "on_failure")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: str
    restarts: int
    last_failure: str
    failures: int
    running: bool
    on_failure: str
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[str] = ..., restarts: _Optional[int] = ..., last_failure: _Optional[str] = ..., failures: _Optional[int] = ..., running: bool = ..., on_failure: _Optional[str] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers", "next_page_token")
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInstance]
    next_page_token: str
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerInstance, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WorkerInstance(_message.Message):
    __slots__ = ("worker_id", "instance_uid", "queues", "task_types", "leases", "since_renewal", "suspect")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_UID_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    SINCE_RENEWAL_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    instance_uid: str
    queues: _containers.RepeatedScalarFieldContainer[str]
    task_types: _containers.RepeatedScalarFieldContainer[str]
    leases: int
    since_renewal: _duration_pb2.Duration
    suspect: bool
    def __init__(self, worker_id: _Optional[str] = ..., instance_uid: _Optional[str] = ..., queues: _Optional[_Iterable[str]] = ..., task_types: _Optional[_Iterable[str]] = ..., leases: _Optional[int] = ..., since_renewal: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., suspect: bool = ...) -> None: ...
