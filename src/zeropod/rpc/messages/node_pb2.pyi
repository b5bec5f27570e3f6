import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    WITHDRAW: _ClassVar[Outcome]
    GIVEN: _ClassVar[Outcome]
    PARKED: _ClassVar[Outcome]
WITHDRAW: Outcome
GIVEN: Outcome
PARKED: Outcome

class Moving(_message.Message):
    __slots__ = ("namespace", "id", "pod_namespace", "pod", "pod_uid", "container")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    POD_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POD_FIELD_NUMBER: _ClassVar[int]
    POD_UID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    id: str
    pod_namespace: str
    pod: str
    pod_uid: str
    container: str
    def __init__(self, namespace: _Optional[str] = ..., id: _Optional[str] = ..., pod_namespace: _Optional[str] = ..., pod: _Optional[str] = ..., pod_uid: _Optional[str] = ..., container: _Optional[str] = ...) -> None: ...

class Needs(_message.Message):
    __slots__ = ("architecture", "kernel", "criu", "cpu_features", "image", "page_size")
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    CRIU_FIELD_NUMBER: _ClassVar[int]
    CPU_FEATURES_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    architecture: str
    kernel: str
    criu: str
    cpu_features: _containers.RepeatedScalarFieldContainer[str]
    image: str
    page_size: int
    def __init__(self, architecture: _Optional[str] = ..., kernel: _Optional[str] = ..., criu: _Optional[str] = ..., cpu_features: _Optional[_Iterable[str]] = ..., image: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class PrepareEvacRequest(_message.Message):
    __slots__ = ("container", "asleep", "offline", "live", "needs", "obstacle")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    ASLEEP_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    NEEDS_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    container: Moving
    asleep: bool
    offline: bool
    live: bool
    needs: Needs
    obstacle: str
    def __init__(self, container: _Optional[_Union[Moving, _Mapping[str, object]]] = ..., asleep: _Optional[bool] = ..., offline: _Optional[bool] = ..., live: _Optional[bool] = ..., needs: _Optional[_Union[Needs, _Mapping[str, object]]] = ..., obstacle: _Optional[str] = ...) -> None: ...

class PrepareEvacResponse(_message.Message):
    __slots__ = ("go", "why", "key", "park", "deadline")
    GO_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PARK_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    go: bool
    why: str
    key: str
    park: bool
    deadline: _timestamp_pb2.Timestamp
    def __init__(self, go: _Optional[bool] = ..., why: _Optional[str] = ..., key: _Optional[str] = ..., park: _Optional[bool] = ..., deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ...) -> None: ...

class EvacRequest(_message.Message):
    __slots__ = ("container", "key", "paused_at", "image_bytes", "stored_bytes")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_AT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    container: Moving
    key: str
    paused_at: _timestamp_pb2.Timestamp
    image_bytes: int
    stored_bytes: int
    def __init__(self, container: _Optional[_Union[Moving, _Mapping[str, object]]] = ..., key: _Optional[str] = ..., paused_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., image_bytes: _Optional[int] = ..., stored_bytes: _Optional[int] = ...) -> None: ...

class EvacResponse(_message.Message):
    __slots__ = ("outcome", "why", "address")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    why: str
    address: str
    def __init__(self, outcome: _Optional[_Union[Outcome, str]] = ..., why: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("container", "has", "address")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    HAS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    container: Moving
    has: Needs
    address: str
    def __init__(self, container: _Optional[_Union[Moving, _Mapping[str, object]]] = ..., has: _Optional[_Union[Needs, _Mapping[str, object]]] = ..., address: _Optional[str] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("found", "migration", "key", "live", "why")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    LIVE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    found: bool
    migration: str
    key: str
    live: bool
    why: str
    def __init__(self, found: _Optional[bool] = ..., migration: _Optional[str] = ..., key: _Optional[str] = ..., live: _Optional[bool] = ..., why: _Optional[str] = ...) -> None: ...

class FinishRestoreRequest(_message.Message):
    __slots__ = ("container", "migration", "phase", "why", "restored_at", "bytes_received", "pages_to_come", "is_final")
    CONTAINER_FIELD_NUMBER: _ClassVar[int]
    MIGRATION_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    RESTORED_AT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    PAGES_TO_COME_FIELD_NUMBER: _ClassVar[int]
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    container: Moving
    migration: str
    phase: str
    why: str
    restored_at: _timestamp_pb2.Timestamp
    bytes_received: int
    pages_to_come: int
    is_final: bool
    def __init__(self, container: _Optional[_Union[Moving, _Mapping[str, object]]] = ..., migration: _Optional[str] = ..., phase: _Optional[str] = ..., why: _Optional[str] = ..., restored_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping[str, object]]] = ..., bytes_received: _Optional[int] = ..., pages_to_come: _Optional[int] = ..., is_final: _Optional[bool] = ...) -> None: ...

class FinishRestoreResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
