"""bpf(2) by hand: maps, programs and links, without libbpf.

Owns the layouts of union bpf_attr that are used here and the life of the descriptors: what a Map, a Program or a Link
stands for ends in the kernel when its last descriptor is closed. bcc cannot load programs of type sk_lookup (it passes
no expected_attach_type), and nothing but the standard library may be needed at run time.

Source of facts: include/uapi/linux/bpf.h.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Self

from zeropod.kernel import libc

_LOG_SIZE = 1 << 18
_PROG_TYPE_SK_LOOKUP, _ATTACH_SK_LOOKUP = 30, 36

_ATTEMPTS = 16
"""Times that a program is loaded which signals interrupt."""


class _Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    LINK_CREATE = 28


class MapType(IntEnum):
    """The kinds of map used here, with the kernel's numbers."""

    HASH = 1
    ARRAY = 2
    LRU_HASH = 9
    SOCKMAP = 15


class _Descriptor:
    """An open file descriptor that is closed with its owner."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Map(_Descriptor):
    """A map. Keys and values are bytes of exactly the sizes it was created with.

    Raises OSError: EPERM without CAP_BPF, E2BIG when a hash is full.
    """

    def __init__(self, kind: MapType, key_size: int, value_size: int, entries: int, name: str) -> None:
        self.key_size, self.value_size = key_size, value_size
        attributes = struct.pack("=6I16s", kind, key_size, value_size, entries, 0, 0, _name(name))
        super().__init__(_bpf(_Command.MAP_CREATE, attributes))

    def get(self, key: bytes) -> bytes | None:
        key_buffer = self._key(key)
        value = bytearray(self.value_size)
        try:
            self._element(_Command.MAP_LOOKUP_ELEM, key_buffer, value)
        except FileNotFoundError:
            return None
        return bytes(value)

    def set(self, key: bytes, value: bytes) -> None:
        """Add a key or replace its value. In a sockmap the value is a socket's fd."""
        if len(value) != self.value_size:
            raise ValueError(f"bpf map: a value of {len(value)} bytes, {self.value_size} expected")
        self._element(_Command.MAP_UPDATE_ELEM, self._key(key), bytearray(value))

    def delete(self, key: bytes) -> None:
        """Remove a key, which may be missing already."""
        try:
            self._element(_Command.MAP_DELETE_ELEM, self._key(key), None)
        except OSError as error:
            # A hash's missing key is ENOENT, a sockmap's empty slot EINVAL (net/core/sock_map.c).
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys and values, unordered. Keys added during the iteration may be missed."""
        key: bytearray | None = None
        while True:
            following = bytearray(self.key_size)
            try:
                self._element(_Command.MAP_GET_NEXT_KEY, key, following)
            except FileNotFoundError:
                return
            key = following
            if (value := self.get(bytes(key))) is not None:
                yield bytes(key), value

    def _key(self, key: bytes) -> bytearray:
        if len(key) != self.key_size:
            raise ValueError(f"bpf map: a key of {len(key)} bytes, {self.key_size} expected")
        return bytearray(key)

    def _element(self, command: _Command, key: bytearray | None, value: bytearray | None) -> None:
        _bpf(command, struct.pack("=IxxxxQQQ", self.fd, _address(key), _address(value), 0))


class Program(_Descriptor):
    """A loaded sk_lookup program: `instructions` in the kernel's format with map descriptors filled in.

    Raises OSError with the verifier's last words when the kernel refuses it.
    """

    def __init__(self, instructions: bytes, licence: str, name: str) -> None:
        code, gpl = bytearray(instructions), bytearray(licence.encode() + b"\0")

        def attempt(log: bytearray | None) -> int:
            verbosity, size = (1, len(log)) if log else (0, 0)
            return _bpf(
                _Command.PROG_LOAD,
                struct.pack(
                    "=IIQQIIQII16sII",
                    *(_PROG_TYPE_SK_LOOKUP, len(instructions) // 8, _address(code), _address(gpl)),
                    *(verbosity, size, _address(log), 0, 0, _name(name), 0, _ATTACH_SK_LOOKUP),
                ),
            )

        def load(log: bytearray | None) -> int:
            # The verifier gives up with EAGAIN when a signal arrives, such as the SIGCHLD of a process that has ended.
            for _ in range(_ATTEMPTS - 1):
                with suppress(BlockingIOError):
                    return attempt(log)
            return attempt(log)

        try:
            super().__init__(load(None))
        except OSError as error:
            # Once more with a log: asking for one costs time, and too small a one is an error.
            log = bytearray(_LOG_SIZE)
            try:
                super().__init__(load(log))
            except OSError:
                words = log.partition(b"\0")[0].decode(errors="replace").strip().splitlines()[-8:]
                raise OSError(error.errno, f"{error.strerror}; verifier: {' | '.join(words) or 'silent'}") from None


class Link(_Descriptor):
    """A program attached to the network namespace that the descriptor `netns` stands for.

    Several links on one namespace run one after the other. The attachment ends with close(), and
    when the namespace ends.
    """

    def __init__(self, program: Program, netns: int) -> None:
        attributes = struct.pack("=4I32x", program.fd, netns, _ATTACH_SK_LOOKUP, 0)
        super().__init__(_bpf(_Command.LINK_CREATE, attributes))


def _bpf(command: _Command, attributes: bytes) -> int:
    return libc.syscall("bpf", int(command), attributes, len(attributes), what=f"({command.name})")


def _address(data: bytearray | None) -> int:
    """Return the address of the buffer's bytes, valid while it lives and keeps its length.

    A ctypes array would need a class of its own for each length, created each time and left to the garbage collector.
    """
    return ctypes.addressof(ctypes.c_char.from_buffer(data)) if data is not None else 0


def _name(name: str) -> bytes:
    # BPF_OBJ_NAME_LEN is 16 with the final zero; letters, digits, "_" and "." only.
    return name.encode()[:15]
