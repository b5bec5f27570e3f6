"""The messages between pager and shim, over a pair of sequenced-packet sockets; and how a pager ends.

Owns the format: one byte of kind, then the value. A userfaultfd travels with its message.
"""

import array
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass

# From the shim.
FILL = b"f"
WAKE = b"w"
"""The container runs: bring in the rest of the working set. Optional: without it the pages come one by one."""
DRAIN = b"d"
LOOK = b"k"
"""The journal has a new request."""
BEGIN = b"s"
"""Serve: the predecessor has retired. This is in the journal, too."""
RETIRE = b"r"
"""End, with everything recorded: another pager continues."""
GONE = b""
"""The shim is dead, or has closed its end after DONE."""

# From the pager.
GUARD = b"g"
"""A userfaultfd; the value is the number of its address space."""
COMPLETE = b"c"
"""CRIU has handed over every userfaultfd; the value is their number."""
FILLED = b"n"
"""The working set is in; the value is the number of pages."""
ENDED = b"x"
"""An address space has ended; the value is its number."""
DONE = b"e"
"""Every page is in."""
NEED = b"p"
"""A process waits for a piece of a file that is still being filled; the value is a `place_value`."""
WANT = b"o"
"""The same, but nothing waits for it yet."""
BROKEN = b"b"
"""CRIU ended during the hand-over."""
LOST = b"l"
"""The pager ends, with this text, and the memory stays incomplete."""

_VALUE = struct.Struct("=Q")
_TEXT = 4096


class Lost(Exception):  # noqa: N818 - what has happened to the memory
    """Memory can no longer be completed; the text says why."""


@dataclass(frozen=True, slots=True)
class Report:
    """A message from the pager; `descriptor` is the userfaultfd sent with it."""

    kind: bytes
    value: int
    text: str
    descriptor: int | None


def place_value(file: int, piece: int) -> int:
    """Return a piece of a file as the value of a message."""
    return file << 32 | piece


def place_of(value: int) -> tuple[int, int]:
    """Return (number of the file, number of the piece)."""
    return value >> 32, value & 0xFFFFFFFF


def ask(control: socket.socket, kind: bytes, value: int) -> bool:
    """From the pager: send a message unless that would block; return whether it was sent."""
    try:
        control.send(kind + _VALUE.pack(value), socket.MSG_DONTWAIT)
    except OSError:
        return False
    return True


def send(control: socket.socket, kind: bytes, value: int = 0, descriptor: int | None = None) -> None:
    """From the pager: send a message. Ignores a dead shim, which the pager detects when it reads."""
    with suppress(OSError):
        socket.send_fds(control, [kind + _VALUE.pack(value)], [] if descriptor is None else [descriptor])


def say(control: socket.socket, kind: bytes, text: str) -> None:
    with suppress(OSError):
        control.send(kind + text.encode()[:_TEXT])


def command(control: socket.socket) -> bytes:
    """Return the shim's next message; GONE when it is dead."""
    try:
        return control.recv(1)
    except ConnectionError:
        return GONE


def receive(control: socket.socket) -> Report | None:
    """Return the pager's next message; None when it is dead. Raises BlockingIOError without a message."""
    try:
        data, ancillary, _, _ = control.recvmsg(_TEXT + 1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not data:
        return None
    descriptors = array.array("i")
    for level, form, value in ancillary:
        if level == socket.SOL_SOCKET and form == socket.SCM_RIGHTS:
            descriptors.frombytes(value[: len(value) - len(value) % descriptors.itemsize])
    kind, rest = data[:1], data[1:]
    if kind in (LOST, BROKEN):
        return Report(kind, 0, rest.decode(errors="replace"), None)
    return Report(kind, _VALUE.unpack(rest)[0], "", descriptors[0] if descriptors else None)
