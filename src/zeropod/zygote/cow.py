"""Prevent needless writes of the interpreter to memory that forks share.

A page of memory, 4 KiB, belongs to a fork alone from the first byte that it writes there. A Python program writes
nearly everywhere: it counts references to objects that it only reads, and puts new objects into gaps between old ones.
Against the first, all objects become immortal, as None is since Python 3.12 (PEP 683), so that their references are not
counted. Against the second, the gaps are filled. `kernel.huge_pages` keeps the kernel from undoing both.

This module relies on internals of CPython and glibc. If they are not as expected, it raises and changes nothing; a fork
then takes some megabytes more.
"""

import ctypes
import gc
import sys
from types import CodeType, FrameType

_SMALL = 512
"""Bytes up to which CPython itself allocates, in size classes of 16; larger ones come from malloc."""

_STEP = 16
_POOL = 1 << 14
"""Bytes of a pool, which holds blocks of one size class."""

_POOL_HEAD = 48
"""Offset of a pool's first block."""

_MOST = 1 << 16
"""Most fillers of one size, in case that they never end."""

_HEAP = (4096, 2048, *range(1040, 31, -16))
"""Sizes of the chunks with which the gaps of malloc's heap are filled, the largest first. For sizes up to 1040 bytes,
malloc keeps some free chunks (tcache) that no other size uses."""

_WIDE = 1 << 14
"""Bytes of a gap that is not filled: most of its pages are free, and go back to the kernel."""

_CHUNK_HEAD = 8
"""Bytes of a chunk that malloc itself uses."""

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Options of mallopt(3)."""

_LARGE = 1 << 16
"""Bytes from which malloc returns memory to the kernel at once. Once set it stays; otherwise malloc raises it to the
largest freed size."""

_ROOM = 33
"""Bytes of a bytes object besides its content."""

_IMMORTAL = {(3, 12): 0xFFFFFFFF, (3, 13): 0xFFFFFFFF, (3, 14): 1 << 48 | 0xC0000000 + (1 << 20)}
"""By version of CPython, the first word of an immortal object on the heap: `_Py_SetImmortalUntracked` in its object.c.
3.14 may still drop some references that it took before, without checking again."""

_LEAST = 0x80000000
"""Counts from this one on are immortal in all versions."""

_libc = ctypes.CDLL(None)
_libc.sbrk.restype = _libc.malloc.restype = ctypes.c_void_p
_libc.free.argtypes = [ctypes.c_void_p]

_ROW = 8
"""Blocks of a pool that are consecutive only in a new pool."""

_fillers: list[object] = []


class UnknownInterpreterError(Exception):
    """The internals of this CPython or libc are not known; the text says which."""


def immortalize() -> None:
    """Make all objects immortal. Raises UnknownInterpreterError.

    The garbage collector stops tracking an immortal object that it meets, which saves further writes.
    """
    gc.collect()
    _immortalize(immortal_count())


def give_back() -> None:
    """Make malloc return freed memory to the kernel, here and in all forks, such as that of a dump. Raises
    UnknownInterpreterError."""
    for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
        if not _libc.mallopt(option, _LARGE):
            raise UnknownInterpreterError(f"this libc has no option {option} of mallopt")


def _count(thing: object) -> "ctypes.c_uint64":
    """Return the word with an object's reference count, and what else the interpreter keeps there."""
    return ctypes.c_uint64.from_address(id(thing))


def immortal_count() -> int:
    """Return the reference count of an immortal object, verified on a new one. Raises UnknownInterpreterError."""
    known = _IMMORTAL if sys.implementation.name == "cpython" else {}
    if (count := known.get(sys.version_info[:2])) is None:
        version = f"{sys.implementation.name} {sys.version.split()[0]}"
        raise UnknownInterpreterError(f"{version} is not known to have immortal objects")
    probe = [object()]
    if _count(probe).value not in (1, 2):
        raise UnknownInterpreterError("an object does not begin with its count of references")
    _count(probe).value = count
    others = [probe] * 100
    while others:
        others.pop()
    if _count(probe).value != count:
        raise UnknownInterpreterError("references to an immortal object are counted")
    return count


def _immortalize(count: int) -> None:
    word_at = ctypes.c_uint64.from_address
    found = gc.get_objects()  # first, so that objects of this search are not among the found ones
    while found:
        new = []
        for thing in found:
            word = word_at(id(thing))
            # A frame is running code, and holds the objects of this search.
            if word.value & 0xFFFFFFFF < _LEAST and type(thing) is not FrameType:
                word.value = count
                new.append(thing)
                if type(thing) is str:
                    hash(thing)  # which it keeps
        found = _referents(new)


def _referents(things: list[object]) -> list[object]:
    found = gc.get_referents(*things)
    for thing in things:
        if type(thing) is CodeType:  # which does not tell the collector what it refers to
            found += (thing.co_consts, thing.co_names, thing.co_name, thing.co_qualname, thing.co_filename)
            found += (thing.co_linetable, thing.co_exceptiontable)
    return found


def fill_gaps() -> None:
    """Fill the gaps between objects, so that new allocations use memory that was not in use before."""
    for size in range(_STEP, _SMALL + 1, _STEP):
        _fill_pools(size)
    wide = _fill_heap(_WIDE, int(_libc.sbrk(0)))
    end = wide[-1]  # no gap is beyond it
    for size in _HEAP:
        _fill_heap(size, end)
    for chunk in wide:
        _libc.free(chunk)
    _libc.malloc_trim(0)


def _fill_heap(size: int, end: int) -> list[int]:
    """Allocate chunks of this size until one is beyond the heap's end; return their addresses."""
    chunks: list[int] = []
    while len(chunks) < _MOST:
        chunks.append(int(_libc.malloc(size - _CHUNK_HEAD)))
        if chunks[-1] >= end:
            break
    return chunks


def _fill_pools(size: int) -> None:
    """Allocate until a pool is new. A pool with gaps may begin with its first block, but then jumps to the next gap."""
    row, following = 0, 0
    for number in range(_MOST):
        filler = _filler(size, number)
        _fillers.append(filler)
        row = 1 if id(filler) % _POOL == _POOL_HEAD else row + 1 if row and id(filler) == following else 0
        following = id(filler) + size
        if row == _ROW:
            return


def _filler(size: int, number: int) -> object:
    """Return a new object of `size` bytes, a multiple of 16, that the garbage collector does not track."""
    match size:
        case 16:
            return object()
        case 32:
            return float(number)
        case _:
            return bytes(size - _ROOM)
