"""Compression of pieces, with the system's library and without."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as some

from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.transfer import zstd
from zeropod.runtime.transfer.zstd import Corrupt, Zstd

needs_library = pytest.mark.skipif(not zstd.available(), reason="needs libzstd")


@needs_library
@pytest.mark.parametrize("data", [b"a" * PIECE, os.urandom(PIECE // 2) * 2, b"abc" * 1000, bytes(4096)])
def test_what_is_compressed_comes_back(data: bytes) -> None:
    both = Zstd()
    for _ in range(3):
        compressed = both.compress(data)
        assert compressed is not None
        assert len(compressed) < len(data)
        assert both.decompress(compressed, len(data)) == data


@needs_library
def test_what_does_not_compress_is_left_as_it_is() -> None:
    assert Zstd().compress(os.urandom(PIECE)) is None


@needs_library
def test_lengths_that_are_not_right_are_refused() -> None:
    both, data = Zstd(), b"a" * 10000
    compressed = both.compress(data)
    assert compressed
    for length in (9999, 10001, 1):
        with pytest.raises(Corrupt):
            both.decompress(compressed, length)
    huge = both.compress(b"b" * PIECE)
    assert huge
    with pytest.raises(Corrupt):
        both.decompress(huge * 2, 1 << 30)  # twice as long as the room


@needs_library
@given(some.binary(max_size=500), some.integers(1, PIECE))
def test_noise_is_refused(data: bytes, length: int) -> None:
    with pytest.raises(Corrupt):
        Zstd().decompress(data, length)


def test_without_the_library_nothing_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd, "_library", lambda: None)
    assert not zstd.available()
    assert Zstd().compress(b"a" * PIECE) is None
    with pytest.raises(Corrupt, match="no libzstd"):
        Zstd().decompress(b"x", 1)
