from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IpcDesc(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: int
    def __init__(self, id: _Optional[int] = ...) -> None: ...

class IpcShm(_message.Message):
    __slots__ = ("desc", "in_pagemaps")
    DESC_FIELD_NUMBER: _ClassVar[int]
    IN_PAGEMAPS_FIELD_NUMBER: _ClassVar[int]
    desc: IpcDesc
    in_pagemaps: bool
    def __init__(self, desc: _Optional[_Union[IpcDesc, _Mapping[str, object]]] = ..., in_pagemaps: _Optional[bool] = ...) -> None: ...
