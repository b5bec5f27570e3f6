import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    CREATED: _ClassVar[State]
    RUNNING: _ClassVar[State]
    CHECKPOINTING: _ClassVar[State]
    STANDBY: _ClassVar[State]
    COLD: _ClassVar[State]
    RESTORING: _ClassVar[State]
    PAUSED: _ClassVar[State]
    STOPPED: _ClassVar[State]
    DOZING: _ClassVar[State]
STATE_UNSPECIFIED: State
CREATED: State
RUNNING: State
CHECKPOINTING: State
STANDBY: State
COLD: State
RESTORING: State
PAUSED: State
STOPPED: State
DOZING: State

class ContainerStatus(_message.Message):
    __slots__ = ("id", "namespace", "pod_namespace", "pod", "container", "sandbox", "state", "pid", "since", "last_checkpoint_ms", "last_restore_ms", "checkpoints", "restores", "checkpoint_errors", "restore_errors", "why", "message", "probes_answered", "dozes", "may_sleep", "dry_run", "checkpoint_seconds", "standby_wake_seconds", "cold_wake_seconds", "last_checkpoint", "last_restore", "standby_sleeps", "cold_sleeps", "refused_sleeps", "image_bytes", "dry_run_sleeps", "dry_run_wakes", "dry_run_asleep", "memory_backend", "memory_why", "memory_out_bytes", "memory_left_bytes", "memory_written_bytes", "memory_faults", "memory_brought_in_bytes", "memory_written_bytes_total", "memory_faults_total", "why_kept", "memory_moving", "pod_uid", "reasons", "keep_on_restart")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    SANDBOX_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECKPOINT_MS_FIELD_NUMBER: _ClassVar[int]
    LAST_RESTORE_MS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    RESTORES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ERRORS_FIELD_NUMBER: _ClassVar[int]
    RESTORE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBES_ANSWERED_FIELD_NUMBER: _ClassVar[int]
    DOZES_FIELD_NUMBER: _ClassVar[int]
    MAY_SLEEP_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    STANDBY_WAKE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COLD_WAKE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAST_CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    LAST_RESTORE_FIELD_NUMBER: _ClassVar[int]
    STANDBY_SLEEPS_FIELD_NUMBER: _ClassVar[int]
    COLD_SLEEPS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_SLEEPS_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_SLEEPS_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_WAKES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_ASLEEP_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BACKEND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_WHY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_OUT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LEFT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FAULTS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BROUGHT_IN_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_WRITTEN_BYTES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FAULTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    WHY_KEPT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_MOVING_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    KEEP_ON_RESTART_FIELD_NUMBER: _ClassVar[int]
    id: str
    namespace: str
    pod_namespace: str
    pod: str
    container: str
    sandbox: str
    state: State
    pid: int
    since: _timestamp_pb2.Timestamp
    last_checkpoint_ms: float
    last_restore_ms: float
    checkpoints: int
    restores: int
    checkpoint_errors: int
    restore_errors: int
    why: str
    message: str
    probes_answered: int
    dozes: int
    may_sleep: bool
    dry_run: bool
    checkpoint_seconds: Histogram
    standby_wake_seconds: Histogram
    cold_wake_seconds: Histogram
    last_checkpoint: _timestamp_pb2.Timestamp
    last_restore: _timestamp_pb2.Timestamp
    standby_sleeps: int
    cold_sleeps: int
    refused_sleeps: int
    image_bytes: int
    dry_run_sleeps: int
    dry_run_wakes: int
    dry_run_asleep: bool
    memory_backend: str
    memory_why: str
    memory_out_bytes: int
    memory_left_bytes: int
    memory_written_bytes: int
    memory_faults: int
    memory_brought_in_bytes: int
    memory_written_bytes_total: int
    memory_faults_total: int
    why_kept: str
    memory_moving: bool
    pod_uid: str
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    keep_on_restart: bool
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., sandbox: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., pid: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., last_checkpoint_ms: _Optional[float] = ..., last_restore_ms: _Optional[float] = ..., checkpoints: _Optional[int] = ..., restores: _Optional[int] = ..., checkpoint_errors: _Optional[int] = ..., restore_errors: _Optional[int] = ..., why: _Optional[str] = ..., message: _Optional[str] = ..., probes_answered: _Optional[int] = ..., dozes: _Optional[int] = ..., may_sleep: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., checkpoint_seconds: _Optional[_Union[Histogram, _Mapping[str, object]]] = ..., standby_wake_seconds: _Optional[_Union[Histogram, _Mapping[str, object]]] = ..., cold_wake_seconds: _Optional[_Union[Histogram, _Mapping[str, object]]] = ..., last_checkpoint: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., last_restore: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., standby_sleeps: _Optional[int] = ..., cold_sleeps: _Optional[int] = ..., refused_sleeps: _Optional[int] = ..., image_bytes: _Optional[int] = ..., dry_run_sleeps: _Optional[int] = ..., dry_run_wakes: _Optional[int] = ..., dry_run_asleep: _Optional[bool] = ..., memory_backend: _Optional[str] = ..., memory_why: _Optional[str] = ..., memory_out_bytes: _Optional[int] = ..., memory_left_bytes: _Optional[int] = ..., memory_written_bytes: _Optional[int] = ..., memory_faults: _Optional[int] = ..., memory_brought_in_bytes: _Optional[int] = ..., memory_written_bytes_total: _Optional[int] = ..., memory_faults_total: _Optional[int] = ..., why_kept: _Optional[str] = ..., memory_moving: _Optional[bool] = ..., pod_uid: _Optional[str] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping[str, object]]]] = ..., keep_on_restart: _Optional[bool] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("bounds", "counts", "sum")
    BOUNDS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SUM_FIELD_NUMBER: _ClassVar[int]
    bounds: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    sum: float
    def __init__(self, bounds: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., sum: _Optional[float] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("containers",)
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStatus]
    def __init__(self, containers: _Optional[_Iterable[_Union[ContainerStatus, _Mapping[str, object]]]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("gather_milliseconds", "reasons")
    GATHER_MILLISECONDS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    gather_milliseconds: int
    reasons: bool
    def __init__(self, gather_milliseconds: _Optional[int] = ..., reasons: _Optional[bool] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("sequence", "after", "snapshot", "containers", "removed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    CONTAINERS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    after: int
    snapshot: bool
    containers: _containers.RepeatedCompositeFieldContainer[ContainerStatus]
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sequence: _Optional[int] = ..., after: _Optional[int] = ..., snapshot: _Optional[bool] = ..., containers: _Optional[_Iterable[_Union[ContainerStatus, _Mapping[str, object]]]] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class WhyRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class WhyResponse(_message.Message):
    __slots__ = ("status", "reasons")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    status: ContainerStatus
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    def __init__(self, status: _Optional[_Union[ContainerStatus, _Mapping[str, object]]] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping[str, object]]]] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("kind", "text", "remedy")
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    text: str
    remedy: str
    def __init__(self, kind: _Optional[str] = ..., text: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class SleepRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class WakeRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class HibernateRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class HibernateResponse(_message.Message):
    __slots__ = ("status", "key", "bytes")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    status: ContainerStatus
    key: str
    bytes: int
    def __init__(self, status: _Optional[_Union[ContainerStatus, _Mapping[str, object]]] = ..., key: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...
