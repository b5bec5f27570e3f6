"""ttrpc's frames: bytes in, frames out. No I/O, and no interpretation of payloads.

A frame is a header of ten bytes, `>IIBB` (payload length, stream id, type, flags), and the payload. Rules
that hold here:

- A payload has at most 4 MiB. A longer one is skipped as it arrives, without being kept, and reported as
  `Oversized`, so that the connection lives on (Go's ttrpc does the same in its channel).
- Every header is valid: types and stream ids are checked in `connection`. So the only possible error in the
  input is an end inside a frame.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct

MAX_MESSAGE = 4 << 20
"""Bytes in the longest payload."""

_HEADER = Struct(">IIBB")


class ProtocolError(Exception):
    """The peer's bytes are not valid ttrpc, or ours would not be."""


class FrameType(IntEnum):
    REQUEST = 1
    RESPONSE = 2
    DATA = 3


class Flag(IntFlag):
    """The state of the sender of a frame in a streaming call."""

    REMOTE_CLOSED = 1
    """It sends nothing more on this stream."""
    REMOTE_OPEN = 2
    """In a request: data follows."""
    NO_DATA = 4
    """In a data frame: it holds no message, not even an empty one (Go's `flagNoData`)."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `type` stays a plain number, since a peer may know more types than we do."""

    stream: int
    type: int
    payload: bytes
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Oversized:
    """A message of `length` bytes, too long to be accepted, which has been skipped."""

    stream: int
    type: int
    length: int


def encode(frame: Frame) -> bytes:
    """Return the frame's bytes. Raises ProtocolError if its payload is longer than MAX_MESSAGE."""
    length = len(frame.payload)
    if length > MAX_MESSAGE:
        raise ProtocolError(f"message length {length} exceeds the maximum message size of {MAX_MESSAGE}")
    return _HEADER.pack(length, frame.stream, frame.type, frame.flags) + frame.payload


class Decoder:
    """Cuts a stream of bytes into frames, however it was split on the way."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping: Oversized | None = None
        self._left_to_skip = 0

    def feed(self, data: bytes) -> list[Frame | Oversized]:
        """Take the next bytes and return the frames that they complete. At most one incomplete message is kept."""
        self._buffer += data
        events: list[Frame | Oversized] = []
        position = 0
        while True:
            if self._skipping is not None:
                step = min(self._left_to_skip, len(self._buffer) - position)
                position += step
                self._left_to_skip -= step
                if self._left_to_skip:
                    break
                events.append(self._skipping)
                self._skipping = None
            if len(self._buffer) - position < _HEADER.size:
                break
            length, stream, kind, flags = _HEADER.unpack_from(self._buffer, position)
            if length > MAX_MESSAGE:
                position += _HEADER.size
                self._skipping, self._left_to_skip = Oversized(stream, kind, length), length
                continue
            end = position + _HEADER.size + length
            if len(self._buffer) < end:
                break
            events.append(Frame(stream, kind, bytes(self._buffer[position + _HEADER.size : end]), flags))
            position = end
        # One deletion a call: taking frames off the front one by one would move the rest each time.
        del self._buffer[:position]
        return events

    def end(self) -> None:
        """Note the end of the peer's bytes. Raises ProtocolError if it is inside a frame."""
        if self._skipping is not None:
            raise ProtocolError(f"the connection ended {self._left_to_skip} bytes before the end of an oversized frame")
        if self._buffer:
            raise ProtocolError(f"the connection ended {len(self._buffer)} bytes into a frame")
