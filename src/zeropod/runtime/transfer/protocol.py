"""The frames between the two ends of a transfer, without any input or output.

Owns the format: 4 bytes of length, 1 byte of kind, a body of that kind. Everything is big-endian. Requests are answered
in their order. Whatever arrives is checked here, in the direction in which it may come, before anything else sees it:
a frame that is too long is refused by its length, before it is read. Positions in files are checked against the
manifest by the two ends.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.transfer.errors import ProtocolError

LARGEST_TEXT: Final = 4096
"""Bytes of a reason."""
LARGEST_MANIFEST: Final = 4 << 20
"""Bytes of it; what the next wake will probably touch is most of it."""
DIGEST: Final = 16
"""Bytes of the BLAKE2b digest of a piece."""
LARGEST_OFFSET: Final = 1 << 48
LARGEST_REQUEST: Final = 1 + LARGEST_TEXT
LARGEST_ANSWER: Final = 1 + LARGEST_MANIFEST

_LENGTH: Final = struct.Struct(">I")
_GET: Final = struct.Struct(">IQI")
_DATA: Final = struct.Struct(f">IQIB{DIGEST}s")

_MANIFEST, _GET_KIND, _COMMIT, _STATE, _DONE, _FAILED = b"mgcsdf"
_MANIFEST_IS, _DATA_KIND, _DECISION, _TAKEN, _ERROR = b"MDCTE"


class Coding(Enum):
    """How a piece travels."""

    RAW = 0
    ZSTD = 1
    ZEROES = 2
    """Nothing but zeroes, which are not sent."""


@dataclass(frozen=True, slots=True)
class GetManifest:
    """Asks for the manifest."""


@dataclass(frozen=True, slots=True)
class Get:
    """Asks for a part of a file, by its number in the manifest."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Asks that the container is given away, if nothing was decided; answered by the decision."""


@dataclass(frozen=True, slots=True)
class State:
    """Asks for the decision."""


@dataclass(frozen=True, slots=True)
class Done:
    """Everything has arrived: the export may go."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The target gives up."""

    text: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest, JSON."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """A part of a file."""

    file: int
    offset: int
    length: int
    """Of the content, which `payload` is after decoding."""
    coding: Coding
    digest: bytes
    """Of the content."""
    payload: bytes


@dataclass(frozen=True, slots=True)
class Decided:
    """The decision; None if there is none yet."""

    decision: Decision | None


@dataclass(frozen=True, slots=True)
class Taken:
    """DONE or FAILED has arrived."""


@dataclass(frozen=True, slots=True)
class Error:
    """The request cannot be answered."""

    text: str


Request: TypeAlias = GetManifest | Get | Commit | State | Done | Failed
Answer: TypeAlias = Manifest | Data | Decided | Taken | Error

_PLAIN: Final[dict[int, Request]] = {_MANIFEST: GetManifest(), _COMMIT: Commit(), _STATE: State(), _DONE: Done()}
_KINDS: Final = {type(request): kind for kind, request in _PLAIN.items()}


def encode_request(request: Request) -> bytes:
    match request:
        case Get():
            return _frame(_GET_KIND, _GET.pack(request.file, request.offset, request.length))
        case Failed():
            return _frame(_FAILED, _text(request.text))
        case _:
            return _frame(_KINDS[type(request)], b"")


def encode_answer(answer: Answer) -> bytes:
    match answer:
        case Data():
            head = _DATA.pack(answer.file, answer.offset, answer.length, answer.coding.value, answer.digest)
            return _frame(_DATA_KIND, head + answer.payload)
        case Manifest():
            return _frame(_MANIFEST_IS, answer.text)
        case Decided():
            return _frame(_DECISION, (answer.decision or "").encode())
        case Taken():
            return _frame(_TAKEN, b"")
        case Error():
            return _frame(_ERROR, _text(answer.text))


def _frame(kind: int, body: bytes) -> bytes:
    return _LENGTH.pack(1 + len(body)) + bytes([kind]) + body


def _text(text: str) -> bytes:
    return text.encode(errors="replace")[:LARGEST_TEXT]


def decode_request(frame: bytes) -> Request:
    """Return the request in a frame. Raises ProtocolError."""
    kind, body = frame[0], frame[1:]
    if kind == _GET_KIND:
        if len(body) != _GET.size:
            raise ProtocolError(f"a request of {len(body)} bytes for a part of a file")
        file, offset, length = _GET.unpack(body)
        _check_part(offset, length)
        return Get(file, offset, length)
    if kind == _FAILED:
        return Failed(_read_text(body))
    if (request := _PLAIN.get(kind)) is None:
        raise ProtocolError(f"a request of an unknown kind, {kind:#04x}")
    if body:
        raise ProtocolError(f"a request {type(request).__name__} with {len(body)} bytes too many")
    return request


def decode_answer(frame: bytes) -> Answer:
    """Return the answer in a frame. Raises ProtocolError."""
    kind = frame[0]
    if kind == _DATA_KIND:
        return _decode_data(frame)
    body = frame[1:]
    if kind == _MANIFEST_IS:
        return Manifest(body)
    if kind == _ERROR:
        return Error(_read_text(body))
    if kind == _DECISION:
        try:
            return Decided(Decision(body.decode()) if body else None)
        except ValueError:
            raise ProtocolError("an unknown decision") from None
    if kind != _TAKEN or body:
        raise ProtocolError(f"an answer of an unknown kind, {kind:#04x}, or with bytes too many")
    return Taken()


def _decode_data(frame: bytes) -> Data:
    if len(frame) < 1 + _DATA.size:
        raise ProtocolError("a part of a file that was cut short")
    file, offset, length, number, digest = _DATA.unpack_from(frame, 1)
    _check_part(offset, length)
    payload = frame[1 + _DATA.size :]
    try:
        coding = Coding(number)
    except ValueError:
        raise ProtocolError(f"a part of a file in an unknown coding, {number}") from None
    # Compression is used only where it saves something.
    fits = {
        Coding.RAW: len(payload) == length,
        Coding.ZSTD: 0 < len(payload) < length,
        Coding.ZEROES: not payload,
    }
    if not fits[coding]:
        raise ProtocolError(f"{len(payload)} bytes for a part of a file of {length} ({coding.name})")
    return Data(file, offset, length, coding, digest, payload)


def _check_part(offset: int, length: int) -> None:
    if not 0 < length <= PIECE or offset + length > LARGEST_OFFSET:
        raise ProtocolError(f"a part of a file of {length} bytes at {offset}")


def _read_text(body: bytes) -> str:
    if len(body) > LARGEST_TEXT:
        raise ProtocolError(f"a reason of {len(body)} bytes")
    return body.decode(errors="replace")


class Frames:
    """Splits what arrives into frames."""

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._data = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[bytes]:
        """Take what has arrived; yield the frames that are whole. Raises ProtocolError."""
        self._data += data
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if not 0 < length <= self._largest:
                raise ProtocolError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._data) < end:
                return
            with memoryview(self._data) as view:
                frame = bytes(view[_LENGTH.size : end])
            del self._data[:end]
            yield frame

    @property
    def cut(self) -> bool:
        """Whether the end, if it is here, is in the middle of a frame."""
        return bool(self._data)
