"""Compression of pieces by the system's libzstd, through ctypes; without that library pieces travel as they are.

Owns the contexts, one for each end of a connection: the library would make one for each piece, of half a megabyte. The
interpreter's lock is released while it works.

Source of facts: zstd.h of zstd 1.5.
"""

import ctypes
import weakref
from functools import cache
from typing import Final

from zeropod.runtime.pager.presence import PIECE

LEVEL: Final = 1
"""The fastest of the plain ones: memory is compressed at some 500 MB/s by it."""
_LIBRARY: Final = "libzstd.so.1"


class Corrupt(Exception):  # noqa: N818 - what the data is
    """Data that cannot be decompressed to what it should be."""


@cache
def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(_LIBRARY)
        for name in ("ZSTD_createCCtx", "ZSTD_createDCtx"):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("ZSTD_freeCCtx", "ZSTD_freeDCtx"):
            getattr(library, name).argtypes = (ctypes.c_void_p,)
            getattr(library, name).restype = ctypes.c_size_t
        piece = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t)
        library.ZSTD_compressCCtx.argtypes = (*piece, ctypes.c_int)
        library.ZSTD_compressCCtx.restype = ctypes.c_size_t
        library.ZSTD_decompressDCtx.argtypes = piece
        library.ZSTD_decompressDCtx.restype = ctypes.c_size_t
        library.ZSTD_isError.argtypes = (ctypes.c_size_t,)
        library.ZSTD_isError.restype = ctypes.c_uint
    except (OSError, AttributeError):
        return None
    return library


def available() -> bool:
    return _library() is not None


class Zstd:
    """Compresses and decompresses pieces; one at a time."""

    def __init__(self) -> None:
        self._room = ctypes.create_string_buffer(PIECE)
        self._contexts: dict[str, int] = {}

    def compress(self, data: bytes) -> bytes | None:
        """Return a piece compressed; None without the library, or where that would save less than a sixteenth."""
        if (library := _library()) is None or (context := self._context(library, "CCtx")) is None:
            return None
        limit = len(data) - len(data) // 16
        size = library.ZSTD_compressCCtx(context, self._room, min(limit, PIECE), data, len(data), LEVEL)
        return None if library.ZSTD_isError(size) else self._part(size)  # an error also if it does not fit

    def decompress(self, data: bytes, length: int) -> bytes:
        """Return a piece of exactly this length. Raises Corrupt."""
        if (library := _library()) is None or (context := self._context(library, "DCtx")) is None:
            raise Corrupt(f"compressed data, and no {_LIBRARY} on this node")
        size = library.ZSTD_decompressDCtx(context, self._room, min(length, PIECE), data, len(data))
        if library.ZSTD_isError(size) or size != length:
            raise Corrupt("compressed data that is damaged, or longer than it says")
        return self._part(size)

    def _part(self, size: int) -> bytes:
        return bytes(memoryview(self._room)[:size])

    def _context(self, library: ctypes.CDLL, kind: str) -> int | None:
        if kind not in self._contexts:
            made: int | None = getattr(library, f"ZSTD_create{kind}")()
            if made is None:
                return None
            self._contexts[kind] = made
            weakref.finalize(self, getattr(library, f"ZSTD_free{kind}"), made)
        return self._contexts[kind]
