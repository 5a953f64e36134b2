from duite.v1 import common_pb2 as _common_pb2
from duite.v1 import watch_pb2 as _watch_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SharedState(_message.Message):
    __slots__ = ("name", "uid", "settings", "entries", "revision", "update_time", "monitor")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    settings: StateSettings
    entries: _containers.RepeatedCompositeFieldContainer[StateEntry]
    revision: int
    update_time: _timestamp_pb2.Timestamp
    monitor: Monitor
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ..., settings: _Optional[_Union[StateSettings, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[StateEntry, _Mapping]]] = ..., revision: _Optional[int] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., monitor: _Optional[_Union[Monitor, _Mapping]] = ...) -> None: ...

class StateEntry(_message.Message):
    __slots__ = ("key", "value", "mod_revision", "source", "stub")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    STUB_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: _common_pb2.Value
    mod_revision: int
    source: str
    stub: ValueStub
    def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_common_pb2.Value, _Mapping]] = ..., mod_revision: _Optional[int] = ..., source: _Optional[str] = ..., stub: _Optional[_Union[ValueStub, _Mapping]] = ...) -> None: ...

class GetStateRequest(_message.Message):
    __slots__ = ("name", "keys", "min_position", "inline_limit_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MIN_POSITION_FIELD_NUMBER: _ClassVar[int]
    INLINE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    keys: _containers.RepeatedScalarFieldContainer[str]
    min_position: bytes
    inline_limit_bytes: int
    def __init__(self, name: _Optional[str] = ..., keys: _Optional[_Iterable[str]] = ..., min_position: _Optional[bytes] = ..., inline_limit_bytes: _Optional[int] = ...) -> None: ...

class GetStateResponse(_message.Message):
    __slots__ = ("state", "position")
    STATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    state: SharedState
    position: _common_pb2.Position
    def __init__(self, state: _Optional[_Union[SharedState, _Mapping]] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class ListStatesRequest(_message.Message):
    __slots__ = ("parent", "page_size", "page_token")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    parent: str
    page_size: int
    page_token: str
    def __init__(self, parent: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStatesResponse(_message.Message):
    __slots__ = ("states", "next_page_token", "position")
    STATES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[SharedState]
    next_page_token: str
    position: _common_pb2.Position
    def __init__(self, states: _Optional[_Iterable[_Union[SharedState, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class KeyUpdate(_message.Message):
    __slots__ = ("key", "put", "delete", "add", "max", "min")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    DELETE_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    MIN_FIELD_NUMBER: _ClassVar[int]
    key: str
    put: _common_pb2.Value
    delete: bool
    add: _common_pb2.Value
    max: _common_pb2.Value
    min: _common_pb2.Value
    def __init__(self, key: _Optional[str] = ..., put: _Optional[_Union[_common_pb2.Value, _Mapping]] = ..., delete: bool = ..., add: _Optional[_Union[_common_pb2.Value, _Mapping]] = ..., max: _Optional[_Union[_common_pb2.Value, _Mapping]] = ..., min: _Optional[_Union[_common_pb2.Value, _Mapping]] = ...) -> None: ...

class UpdateStateRequest(_message.Message):
    __slots__ = ("name", "updates", "request_id", "expected_revision", "lease_token")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    name: str
    updates: _containers.RepeatedCompositeFieldContainer[KeyUpdate]
    request_id: str
    expected_revision: int
    lease_token: bytes
    def __init__(self, name: _Optional[str] = ..., updates: _Optional[_Iterable[_Union[KeyUpdate, _Mapping]]] = ..., request_id: _Optional[str] = ..., expected_revision: _Optional[int] = ..., lease_token: _Optional[bytes] = ...) -> None: ...

class UpdateStateResponse(_message.Message):
    __slots__ = ("position", "rejected")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    position: _common_pb2.Position
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedKey]
    def __init__(self, position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[RejectedKey, _Mapping]]] = ...) -> None: ...

class DeleteStateRequest(_message.Message):
    __slots__ = ("name", "uid")
    NAME_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    name: str
    uid: str
    def __init__(self, name: _Optional[str] = ..., uid: _Optional[str] = ...) -> None: ...

class DeleteStateResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _common_pb2.Position
    def __init__(self, position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class WatchStateRequest(_message.Message):
    __slots__ = ("names", "keys", "options", "inline_limit_bytes")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    INLINE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    keys: KeyFilter
    options: _watch_pb2.WatchOptions
    inline_limit_bytes: int
    def __init__(self, names: _Optional[_Iterable[str]] = ..., keys: _Optional[_Union[KeyFilter, _Mapping]] = ..., options: _Optional[_Union[_watch_pb2.WatchOptions, _Mapping]] = ..., inline_limit_bytes: _Optional[int] = ...) -> None: ...

class KeyFilter(_message.Message):
    __slots__ = ("exact", "prefixes")
    EXACT_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    exact: _containers.RepeatedScalarFieldContainer[str]
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, exact: _Optional[_Iterable[str]] = ..., prefixes: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchStateResponse(_message.Message):
    __slots__ = ("opened", "snapshot", "synced", "delta", "bookmark", "reset", "closing")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SYNCED_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    BOOKMARK_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    CLOSING_FIELD_NUMBER: _ClassVar[int]
    opened: _watch_pb2.WatchOpened
    snapshot: StateChunk
    synced: _watch_pb2.WatchSynced
    delta: StateDelta
    bookmark: _watch_pb2.WatchBookmark
    reset: _watch_pb2.WatchReset
    closing: _watch_pb2.WatchClosing
    def __init__(self, opened: _Optional[_Union[_watch_pb2.WatchOpened, _Mapping]] = ..., snapshot: _Optional[_Union[StateChunk, _Mapping]] = ..., synced: _Optional[_Union[_watch_pb2.WatchSynced, _Mapping]] = ..., delta: _Optional[_Union[StateDelta, _Mapping]] = ..., bookmark: _Optional[_Union[_watch_pb2.WatchBookmark, _Mapping]] = ..., reset: _Optional[_Union[_watch_pb2.WatchReset, _Mapping]] = ..., closing: _Optional[_Union[_watch_pb2.WatchClosing, _Mapping]] = ...) -> None: ...

class StateChunk(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[KeyChange]
    def __init__(self, entries: _Optional[_Iterable[_Union[KeyChange, _Mapping]]] = ...) -> None: ...

class StateDelta(_message.Message):
    __slots__ = ("base_revision", "position", "changes", "more", "folded_commits")
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    FOLDED_COMMITS_FIELD_NUMBER: _ClassVar[int]
    base_revision: int
    position: _common_pb2.Position
    changes: _containers.RepeatedCompositeFieldContainer[KeyChange]
    more: bool
    folded_commits: int
    def __init__(self, base_revision: _Optional[int] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ..., changes: _Optional[_Iterable[_Union[KeyChange, _Mapping]]] = ..., more: bool = ..., folded_commits: _Optional[int] = ...) -> None: ...

class KeyChange(_message.Message):
    __slots__ = ("target", "key", "value", "stub", "deleted", "mod_revision", "source")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STUB_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    MOD_REVISION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    target: int
    key: str
    value: _common_pb2.Value
    stub: ValueStub
    deleted: bool
    mod_revision: int
    source: str
    def __init__(self, target: _Optional[int] = ..., key: _Optional[str] = ..., value: _Optional[_Union[_common_pb2.Value, _Mapping]] = ..., stub: _Optional[_Union[ValueStub, _Mapping]] = ..., deleted: bool = ..., mod_revision: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ValueStub(_message.Message):
    __slots__ = ("content_type", "size_bytes", "sha256")
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    content_type: str
    size_bytes: int
    sha256: bytes
    def __init__(self, content_type: _Optional[str] = ..., size_bytes: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class PushStateRequest(_message.Message):
    __slots__ = ("open", "batches", "keepalive")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_FIELD_NUMBER: _ClassVar[int]
    open: PushOpen
    batches: UpdateBatches
    keepalive: PushKeepalive
    def __init__(self, open: _Optional[_Union[PushOpen, _Mapping]] = ..., batches: _Optional[_Union[UpdateBatches, _Mapping]] = ..., keepalive: _Optional[_Union[PushKeepalive, _Mapping]] = ...) -> None: ...

class PushOpen(_message.Message):
    __slots__ = ("state_name", "writer_id", "lease_token", "wanted_window")
    STATE_NAME_FIELD_NUMBER: _ClassVar[int]
    WRITER_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WANTED_WINDOW_FIELD_NUMBER: _ClassVar[int]
    state_name: str
    writer_id: str
    lease_token: bytes
    wanted_window: int
    def __init__(self, state_name: _Optional[str] = ..., writer_id: _Optional[str] = ..., lease_token: _Optional[bytes] = ..., wanted_window: _Optional[int] = ...) -> None: ...

class UpdateBatches(_message.Message):
    __slots__ = ("batches",)
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    batches: _containers.RepeatedCompositeFieldContainer[UpdateBatch]
    def __init__(self, batches: _Optional[_Iterable[_Union[UpdateBatch, _Mapping]]] = ...) -> None: ...

class UpdateBatch(_message.Message):
    __slots__ = ("sequence", "updates", "source_time", "folded_flushes", "final")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    SOURCE_TIME_FIELD_NUMBER: _ClassVar[int]
    FOLDED_FLUSHES_FIELD_NUMBER: _ClassVar[int]
    FINAL_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    updates: _containers.RepeatedCompositeFieldContainer[KeyUpdate]
    source_time: _timestamp_pb2.Timestamp
    folded_flushes: int
    final: bool
    def __init__(self, sequence: _Optional[int] = ..., updates: _Optional[_Iterable[_Union[KeyUpdate, _Mapping]]] = ..., source_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., folded_flushes: _Optional[int] = ..., final: bool = ...) -> None: ...

class StateSettings(_message.Message):
    __slots__ = ("merge_interval", "retention")
    MERGE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    merge_interval: _duration_pb2.Duration
    retention: _duration_pb2.Duration
    def __init__(self, merge_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retention: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class UpdateStateSettingsRequest(_message.Message):
    __slots__ = ("name", "settings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    settings: StateSettings
    def __init__(self, name: _Optional[str] = ..., settings: _Optional[_Union[StateSettings, _Mapping]] = ...) -> None: ...

class UpdateStateSettingsResponse(_message.Message):
    __slots__ = ("state", "position")
    STATE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    state: SharedState
    position: _common_pb2.Position
    def __init__(self, state: _Optional[_Union[SharedState, _Mapping]] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class GetMonitorRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class Monitor(_message.Message):
    __slots__ = ("writers", "queued_batches", "merged_batches", "journal_entries", "entries_since_snapshot", "merges_per_second", "batches_per_second", "last_revision")
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    MERGED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    JOURNAL_ENTRIES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_SINCE_SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    MERGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BATCHES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LAST_REVISION_FIELD_NUMBER: _ClassVar[int]
    writers: int
    queued_batches: int
    merged_batches: int
    journal_entries: int
    entries_since_snapshot: int
    merges_per_second: float
    batches_per_second: float
    last_revision: int
    def __init__(self, writers: _Optional[int] = ..., queued_batches: _Optional[int] = ..., merged_batches: _Optional[int] = ..., journal_entries: _Optional[int] = ..., entries_since_snapshot: _Optional[int] = ..., merges_per_second: _Optional[float] = ..., batches_per_second: _Optional[float] = ..., last_revision: _Optional[int] = ...) -> None: ...

class GetMonitorResponse(_message.Message):
    __slots__ = ("monitor", "position")
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    monitor: Monitor
    position: _common_pb2.Position
    def __init__(self, monitor: _Optional[_Union[Monitor, _Mapping]] = ..., position: _Optional[_Union[_common_pb2.Position, _Mapping]] = ...) -> None: ...

class PushKeepalive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PushStateResponse(_message.Message):
    __slots__ = ("opened", "ack", "rewind", "directive")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REWIND_FIELD_NUMBER: _ClassVar[int]
    DIRECTIVE_FIELD_NUMBER: _ClassVar[int]
    opened: PushOpened
    ack: PushAck
    rewind: PushRewind
    directive: PushDirective
    def __init__(self, opened: _Optional[_Union[PushOpened, _Mapping]] = ..., ack: _Optional[_Union[PushAck, _Mapping]] = ..., rewind: _Optional[_Union[PushRewind, _Mapping]] = ..., directive: _Optional[_Union[PushDirective, _Mapping]] = ...) -> None: ...

class PushOpened(_message.Message):
    __slots__ = ("last_sequence", "window", "max_batch_bytes", "max_value_bytes", "keepalive_interval")
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_VALUE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    last_sequence: int
    window: PushWindow
    max_batch_bytes: int
    max_value_bytes: int
    keepalive_interval: _duration_pb2.Duration
    def __init__(self, last_sequence: _Optional[int] = ..., window: _Optional[_Union[PushWindow, _Mapping]] = ..., max_batch_bytes: _Optional[int] = ..., max_value_bytes: _Optional[int] = ..., keepalive_interval: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PushWindow(_message.Message):
    __slots__ = ("max_unacked_batches", "max_unacked_bytes")
    MAX_UNACKED_BATCHES_FIELD_NUMBER: _ClassVar[int]
    MAX_UNACKED_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_unacked_batches: int
    max_unacked_bytes: int
    def __init__(self, max_unacked_batches: _Optional[int] = ..., max_unacked_bytes: _Optional[int] = ...) -> None: ...

class PushAck(_message.Message):
    __slots__ = ("acked_sequence", "revision", "window", "rejected")
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    acked_sequence: int
    revision: int
    window: PushWindow
    rejected: _containers.RepeatedCompositeFieldContainer[RejectedKey]
    def __init__(self, acked_sequence: _Optional[int] = ..., revision: _Optional[int] = ..., window: _Optional[_Union[PushWindow, _Mapping]] = ..., rejected: _Optional[_Iterable[_Union[RejectedKey, _Mapping]]] = ...) -> None: ...

class RejectedKey(_message.Message):
    __slots__ = ("sequence", "key", "reason")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    key: str
    reason: str
    def __init__(self, sequence: _Optional[int] = ..., key: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PushRewind(_message.Message):
    __slots__ = ("expected_sequence",)
    EXPECTED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    expected_sequence: int
    def __init__(self, expected_sequence: _Optional[int] = ...) -> None: ...

class PushDirective(_message.Message):
    __slots__ = ("kind", "message")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[PushDirective.Kind]
        KIND_CANCEL_REQUESTED: _ClassVar[PushDirective.Kind]
        KIND_LEASE_LOST: _ClassVar[PushDirective.Kind]
        KIND_RECONNECT: _ClassVar[PushDirective.Kind]
    KIND_UNSPECIFIED: PushDirective.Kind
    KIND_CANCEL_REQUESTED: PushDirective.Kind
    KIND_LEASE_LOST: PushDirective.Kind
    KIND_RECONNECT: PushDirective.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    kind: PushDirective.Kind
    message: str
    def __init__(self, kind: _Optional[_Union[PushDirective.Kind, str]] = ..., message: _Optional[str] = ...) -> None: ...
