"""Changes to the entries of one directory, as inotify reports them.

Owns the descriptor and the layout of what is read from it.

Source of facts: inotify(7), include/uapi/linux/inotify.h.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Self

import trio

from zeropod.kernel import libc

_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x40, 0x80, 0x100, 0x200, 0x400, 0x800
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR = 0x01000000
_WATCHED = _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEADER = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name
_MUCH = 1 << 16  # bytes


class Change(Enum):
    APPEARED = auto()
    """A new entry has this name; it may have replaced an old one."""
    VANISHED = auto()
    LOST_TRACK = auto()
    """The queue has overflowed: list the directory again."""
    DIRECTORY_GONE = auto()


@dataclass(frozen=True, slots=True)
class Event:
    change: Change
    name: str = ""
    """The entry's; empty when the event concerns the directory itself."""


class DirectoryWatch:
    """Watches from its creation on. Raises OSError if the path is not a directory or the limit of watches is hit."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._descriptor = libc.call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            libc.call("inotify_add_watch", self._descriptor, path, _WATCHED)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    async def events(self) -> list[Event]:
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            try:
                return list(parse(os.read(self._descriptor, _MUCH)))
            except BlockingIOError:
                continue


def parse(data: bytes) -> Iterator[Event]:
    """Yield the events in the bytes of one read(2); the kernel returns whole ones only."""
    position = 0
    while position + _HEADER.size <= len(data):
        _, mask, _, length = _HEADER.unpack_from(data, position)
        start = position + _HEADER.size
        name = os.fsdecode(data[start : start + length].rstrip(b"\0"))
        position = start + length
        if mask & _OVERFLOW:
            yield Event(Change.LOST_TRACK)
        elif mask & (_IGNORED | _DELETE_SELF | _MOVE_SELF):
            yield Event(Change.DIRECTORY_GONE)
        elif mask & (_CREATE | _MOVED_TO):
            yield Event(Change.APPEARED, name)
        elif mask & (_DELETE | _MOVED_FROM):
            yield Event(Change.VANISHED, name)
