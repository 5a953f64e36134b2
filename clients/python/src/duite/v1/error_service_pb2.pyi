from duite.v1 import common_pb2 as _common_pb2
from duite.v1 import watch_pb2 as _watch_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ErrorGroup(_message.Message):
    __slots__ = ("fingerprint", "task_type", "last_failure", "last_task", "count", "first_time", "last_time", "failure_type", "location", "revision")
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    LAST_TASK_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    FIRST_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_TIME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_TYPE_FIELD_NUMBER: _ClassVar[int]
    LOCATION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    fingerprint: str
    task_type: str
    last_failure: _common_pb2.Failure
    last_task: str
    count: int
    first_time: _timestamp_pb2.Timestamp
    last_time: _timestamp_pb2.Timestamp
    failure_type: str
    location: str
    revision: int
    def __init__(self, fingerprint: _Optional[str] = ..., task_type: _Optional[str] = ..., last_failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ..., last_task: _Optional[str] = ..., count: _Optional[int] = ..., first_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., failure_type: _Optional[str] = ..., location: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class ReportFailuresRequest(_message.Message):
    __slots__ = ("parent", "reports")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    reports: _containers.RepeatedCompositeFieldContainer[FailureReport]
    def __init__(self, parent: _Optional[str] = ..., reports: _Optional[_Iterable[_Union[FailureReport, _Mapping]]] = ...) -> None: ...

class FailureReport(_message.Message):
    __slots__ = ("report_id", "task_type", "failure")
    REPORT_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_TYPE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    report_id: str
    task_type: str
    failure: _common_pb2.Failure
    def __init__(self, report_id: _Optional[str] = ..., task_type: _Optional[str] = ..., failure: _Optional[_Union[_common_pb2.Failure, _Mapping]] = ...) -> None: ...

class ReportFailuresResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetErrorGroupRequest(_message.Message):
    __slots__ = ("parent", "fingerprint")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    fingerprint: str
    def __init__(self, parent: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class GetErrorGroupResponse(_message.Message):
    __slots__ = ("group", "tasks", "position")
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    group: ErrorGroup
    tasks: _containers.RepeatedScalarFieldContainer[str]
    position: _common_pb2.Position
    def __init__(self, group: _Optional[_Union[ErrorGroup, _Mapping]] = ..., tasks: _Optional[_Iterable[str]] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class ListErrorGroupsRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListErrorGroupsResponse(_message.Message):
    __slots__ = ("groups", "next_page_token", "position")
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[ErrorGroup]
    next_page_token: str
    position: _common_pb2.Position
    def __init__(self, groups: _Optional[_Iterable[_Union[ErrorGroup, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class WatchErrorsRequest(_message.Message):
    __slots__ = ("parent", "options")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    parent: str
    options: _watch_pb2.WatchOptions
    def __init__(self, parent: _Optional[str] = ..., options: _Optional[_Union[_watch_pb2.WatchOptions, _Mapping]] = ...) -> None: ...

class WatchErrorsResponse(_message.Message):
    __slots__ = ("opened", "snapshot", "synced", "delta", "bookmark", "reset", "closing")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    opened: _watch_pb2.WatchOpened
    snapshot: ErrorChunk
    synced: _watch_pb2.WatchSynced
    delta: ErrorDelta
    bookmark: _watch_pb2.WatchBookmark
    reset: _watch_pb2.WatchReset
    closing: _watch_pb2.WatchClosing
    def __init__(self, opened: _Optional[_Union[_watch_pb2.WatchOpened, _Mapping]] = ..., snapshot: _Optional[_Union[ErrorChunk, _Mapping]] = ..., synced: _Optional[_Union[_watch_pb2.WatchSynced, _Mapping]] = ..., delta: _Optional[_Union[ErrorDelta, _Mapping]] = ..., bookmark: _Optional[_Union[_watch_pb2.WatchBookmark, _Mapping]] = ..., reset: _Optional[_Union[_watch_pb2.WatchReset, _Mapping]] = ..., closing: _Optional[_Union[_watch_pb2.WatchClosing, _Mapping]] = ...) -> None: ...

class ErrorChunk(_message.Message):
    __slots__ = ("groups",)
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    groups: _containers.RepeatedCompositeFieldContainer[ErrorGroup]
    def __init__(self, groups: _Optional[_Iterable[_Union[ErrorGroup, _Mapping]]] = ...) -> None: ...

class ErrorDelta(_message.Message):
    __slots__ = ("base_revision", "position", "changed", "more", "folded_commits")
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    FOLDED_COMMITS_FIELD_NUMBER: _ClassVar[int]
    base_revision: int
    position: _common_pb2.Position
    changed: _containers.RepeatedCompositeFieldContainer[ErrorGroup]
    more: bool
    folded_commits: int
    def __init__(self, base_revision: _Optional[int] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ..., changed: _Optional[_Iterable[_Union[ErrorGroup, _Mapping]]] = ..., more: bool = ..., folded_commits: _Optional[int] = ...) -> None: ...
