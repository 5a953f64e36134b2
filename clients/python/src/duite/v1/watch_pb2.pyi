from duite.v1 import common_pb2 as _common_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchOptions(_message.Message):
    __slots__ = ("resume_token", "min_position", "delivery", "heartbeat_interval", "min_delta_interval", "fail_if_compacted", "updates_only")
    class Delivery(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DELIVERY_UNSPECIFIED: _ClassVar[WatchOptions.Delivery]
        DELIVERY_LATEST: _ClassVar[WatchOptions.Delivery]
        DELIVERY_EVERY: _ClassVar[WatchOptions.Delivery]
    DELIVERY_UNSPECIFIED: WatchOptions.Delivery
    DELIVERY_LATEST: WatchOptions.Delivery
    DELIVERY_EVERY: WatchOptions.Delivery
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MIN_DELTA_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    FAIL_IF_COMPACTED_FIELD_NUMBER: _ClassVar[int]
    UPDATES_ONLY_FIELD_NUMBER: _ClassVar[int]
    resume_token: bytes
    min_position: bytes
    delivery: WatchOptions.Delivery
    heartbeat_interval: _duration_pb2.Duration
    min_delta_interval: _duration_pb2.Duration
    fail_if_compacted: bool
    updates_only: bool
    def __init__(self, resume_token: _Optional[bytes] = ..., min_position: _Optional[bytes] = ..., delivery: _Optional[_Union[WatchOptions.Delivery, str]] = ..., heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., min_delta_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., fail_if_compacted: bool = ..., updates_only: bool = ...) -> None: ...

class WatchOpened(_message.Message):
    __slots__ = ("start", "store_epoch", "position", "heartbeat_interval")
    class Start(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        START_UNSPECIFIED: _ClassVar[WatchOpened.Start]
        START_SNAPSHOT: _ClassVar[WatchOpened.Start]
        START_RESUMED: _ClassVar[WatchOpened.Start]
        START_LIVE: _ClassVar[WatchOpened.Start]
    START_UNSPECIFIED: WatchOpened.Start
    START_SNAPSHOT: WatchOpened.Start
    START_RESUMED: WatchOpened.Start
    START_LIVE: WatchOpened.Start
    START_FIELD_NUMBER: _ClassVar[int]
    STORE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    start: WatchOpened.Start
    store_epoch: str
    position: _common_pb2.Position
    heartbeat_interval: _duration_pb2.Duration
    def __init__(self, start: _Optional[_Union[WatchOpened.Start, str]] = ..., store_epoch: _Optional[str] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ..., heartbeat_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class WatchSynced(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _common_pb2.Position
    def __init__(self, position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class WatchBookmark(_message.Message):
    __slots__ = ("position", "server_time", "lag_revisions")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SERVER_TIME_FIELD_NUMBER: _ClassVar[int]
    LAG_REVISIONS_FIELD_NUMBER: _ClassVar[int]
    position: _common_pb2.Position
    server_time: _timestamp_pb2.Timestamp
    lag_revisions: int
    def __init__(self, position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ..., server_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., lag_revisions: _Optional[int] = ...) -> None: ...

class WatchReset(_message.Message):
    __slots__ = ("reason", "compact_revision")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[WatchReset.Reason]
        REASON_COMPACTED: _ClassVar[WatchReset.Reason]
        REASON_EPOCH_CHANGED: _ClassVar[WatchReset.Reason]
        REASON_FILTER_CHANGED: _ClassVar[WatchReset.Reason]
    REASON_UNSPECIFIED: WatchReset.Reason
    REASON_COMPACTED: WatchReset.Reason
    REASON_EPOCH_CHANGED: WatchReset.Reason
    REASON_FILTER_CHANGED: WatchReset.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    COMPACT_REVISION_FIELD_NUMBER: _ClassVar[int]
    reason: WatchReset.Reason
    compact_revision: int
    def __init__(self, reason: _Optional[_Union[WatchReset.Reason, str]] = ..., compact_revision: _Optional[int] = ...) -> None: ...

class WatchClosing(_message.Message):
    __slots__ = ("reason", "reconnect_after")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[WatchClosing.Reason]
        REASON_DRAINING: _ClassVar[WatchClosing.Reason]
        REASON_MAX_AGE: _ClassVar[WatchClosing.Reason]
        REASON_AUTH_EXPIRED: _ClassVar[WatchClosing.Reason]
    REASON_UNSPECIFIED: WatchClosing.Reason
    REASON_DRAINING: WatchClosing.Reason
    REASON_MAX_AGE: WatchClosing.Reason
    REASON_AUTH_EXPIRED: WatchClosing.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_AFTER_FIELD_NUMBER: _ClassVar[int]
    reason: WatchClosing.Reason
    reconnect_after: _duration_pb2.Duration
    def __init__(self, reason: _Optional[_Union[WatchClosing.Reason, str]] = ..., reconnect_after: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
