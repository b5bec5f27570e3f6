"""Gaps between objects are filled, so that new ones lie together."""

import ctypes
from collections.abc import Iterator

import pytest

from zeropod.zygote import cow

POOL = 1 << 14


@pytest.fixture(autouse=True)
def fillers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Those of a test, which end with it."""
    monkeypatch.setattr(cow, "_fillers", [])
    yield cow._fillers
    cow._fillers.clear()


def small(count: int, size: int) -> list[object]:
    """New objects of so many bytes."""
    return [bytes(size - 33) for _ in range(count)]


@pytest.mark.parametrize("size", [48, 128, 256, 496])
def test_new_objects_do_not_lie_between_old_ones(size: int, fillers: list[object]) -> None:
    many = small(20_000, size)
    # Every fourth goes, and each first one of a pool: where a gap is the first block, the pool is not new.
    kept = [thing for number, thing in enumerate(many) if number % 4 and id(thing) % POOL != 48]
    del many
    cow.fill_gaps()
    assert fillers
    old = {id(thing) // POOL for thing in kept}
    among = [thing for thing in small(100, size) if id(thing) // POOL in old]
    assert len(among) < 10  # what the test itself has left behind meanwhile


@pytest.mark.parametrize("size", [24, 104, 568, 696, 1016, 3000])
def test_nor_does_what_malloc_gives(size: int) -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    many = [libc.malloc(size) for _ in range(60)]
    for gap in many[::3]:  # some of which it keeps at hand
        libc.free(gap)
    cow.fill_gaps()
    assert not {libc.malloc(size) for _ in range(40)} & set(many)


def test_wide_gaps_of_the_heap_stay_as_they_are() -> None:
    many = [bytes(60_000) for _ in range(200)]  # malloc's, and too small to be mapped alone
    start, end = min(map(id, many)), max(map(id, many))
    del many[::2]
    cow.fill_gaps()
    among = [thing for thing in [bytes(15_000) for _ in range(200)] if start < id(thing) < end]
    assert len(among) > 100


def test_an_unknown_interpreter_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cow, "_IMMORTAL", {})
    with pytest.raises(cow.UnknownInterpreterError, match=r"cpython 3\.\d+\.\d+\S* is not known to have immortal"):
        cow.immortalize()
