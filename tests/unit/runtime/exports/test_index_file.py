"""Indexes on disk: what is written is read as it was, and what is not whole and right is refused, whatever it is."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports import index_file
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.pager.journal import IN, MISSING, OUTDATED

FILES = {1: 1 << 30, 7: 1 << 30}


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    index, at = Index(), draw(st.integers(0, 1 << 30)) * PAGE
    for _ in range(draw(st.integers(0, 6))):
        at += draw(st.integers(0, 50)) * PAGE
        pages = draw(st.integers(1, 20))
        states = bytes(draw(st.lists(st.sampled_from([IN, MISSING, OUTDATED]), min_size=pages, max_size=pages)))
        offset = draw(st.integers(0, 1000)) * PAGE
        index.append(Extent(at, at + pages * PAGE, draw(st.sampled_from([1, 7])), offset, states))
        at += pages * PAGE
    return index


def signed(body: bytes) -> bytes:
    return body + hashlib.blake2b(body, digest_size=16).digest()


@given(indexes())
def test_what_is_written_is_read_as_it_was(index: Index) -> None:
    found = index_file.decode(index_file.encode(index), FILES)
    assert list(found) == list(index)
    assert (found.missing, found.usable, found.files) == (index.missing, index.usable, index.files)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_words(content: bytes) -> None:
    with pytest.raises(BadExport):
        index_file.decode(content, FILES)


@given(indexes(), st.data())
def test_a_byte_that_has_changed_is_seen(index: Index, data: st.DataObject) -> None:
    content = bytearray(index_file.encode(index))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BadExport):
        index_file.decode(bytes(content), FILES)


@given(indexes(), st.data())
def test_what_was_changed_and_signed_again_is_refused_or_is_a_possible_index(index: Index, data: st.DataObject) -> None:
    body = bytearray(index_file.encode(index)[:-16])
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = index_file.decode(signed(bytes(body)), FILES)
    except BadExport:
        return
    at = 0
    for extent in found:
        assert at <= extent.start < extent.end <= index_file.HIGHEST
        assert extent.offset + extent.end - extent.start <= FILES[extent.file]
        assert len(extent.states) * PAGE == extent.end - extent.start
        at = extent.end


def extent(start: int, end: int, offset: int, file: int, states: bytes = b"\0") -> bytes:
    return signed(struct.pack("<8sQQQQQI", b"zpindex1", 1, len(states), start, end, offset, file) + states)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (extent(PAGE, 2 * PAGE, 0, 3), "refers to file 3, which there is not"),
        (extent(PAGE, 2 * PAGE, 1 << 30, 1), "goes beyond the end of file 1"),
        (extent(PAGE + 1, 2 * PAGE + 1, 0, 1), "does not consist of pages"),
        (extent(2 * PAGE, PAGE, 0, 1), "is not after the one before"),
        (extent(1 << 60, (1 << 60) + PAGE, 0, 1), "not in any process's memory"),
        (extent(PAGE, 2 * PAGE, 0, 1, b"\0\0"), "does not have a state for each page"),
        (extent(PAGE, 2 * PAGE, 0, 1, b"\x09"), "a page has a state that there is not"),
        (extent(PAGE, 2 * PAGE, 0, 1)[:-17], "size is not what its header says"),
        (b"", "cut short"),
        (signed(b"zpindex9" + bytes(16)), "not an index of a format"),
        (signed(b"zpindex1" + b"\xff" * 16), "size is not what its header says"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, words: str) -> None:
    with pytest.raises(BadExport, match=words):
        index_file.decode(content, FILES)
