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
    __slots__ = ("id", "namespace", "pod_namespace", "pod", "container", "sandbox", "state", "pid", "since", "last_checkpoint_ms", "last_restore_ms", "checkpoints", "restores", "checkpoint_errors", "restore_errors", "why", "message", "probes_answered", "dozes")
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
    def __init__(self, id: _Optional[str] = ..., namespace: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod: _Optional[str] = ..., container: _Optional[str] = ..., sandbox: _Optional[str] = ..., state: _Optional[_Union[State, str]] = ..., pid: _Optional[int] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., last_checkpoint_ms: _Optional[float] = ..., last_restore_ms: _Optional[float] = ..., checkpoints: _Optional[int] = ..., restores: _Optional[int] = ..., checkpoint_errors: _Optional[int] = ..., restore_errors: _Optional[int] = ..., why: _Optional[str] = ..., message: _Optional[str] = ..., probes_answered: _Optional[int] = ..., dozes: _Optional[int] = ...) -> None: ...

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
