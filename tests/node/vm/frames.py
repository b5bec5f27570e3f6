"""What goes through the port between the host and the agent in the machine: frames of a kind, a length and data.

Used on both sides; the standard library alone. The port is a reliable stream of bytes that cuts where it likes.
"""

import enum
import struct
from dataclasses import dataclass

HEADER = struct.Struct(">BI")

LONGEST = 1 << 20
"""The most bytes a frame may carry; more is not ours, and means that the two sides have lost each other."""


class Kind(enum.IntEnum):
    """Who sends it, and what its data are."""

    READY = 1
    """Machine: the agent is there. Nothing."""
    RUN = 2
    """Host: a Request in JSON."""
    INPUT = 3
    """Host: for the command's standard input; nothing is its end."""
    SIGNAL = 4
    """Host: a signal's number in decimal, for the command and its children."""
    RESIZE = 5
    """Host: rows and columns of its terminal in decimal."""
    OUTPUT = 6
    """Machine: what the command wrote to its standard output or its terminal."""
    ERRORS = 7
    """Machine: what the command wrote to its standard error."""
    STATUS = 8
    """Machine: the command's exit status in decimal, as a shell has it. Its last frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    data: bytes = b""

    def __bytes__(self) -> bytes:
        return HEADER.pack(self.kind, len(self.data)) + self.data


class Decoder:
    """Makes frames of bytes, however they are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes complete. Raises ValueError for what cannot be a frame."""
        self._rest += data
        found = []
        while len(self._rest) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._rest)
            if length > LONGEST:
                raise ValueError(f"a frame of {length} bytes came through the machine's port")
            if len(self._rest) < HEADER.size + length:
                break
            found.append(Frame(Kind(kind), bytes(self._rest[HEADER.size : HEADER.size + length])))
            del self._rest[: HEADER.size + length]
        return found
