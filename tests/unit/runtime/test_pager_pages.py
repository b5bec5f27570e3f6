"""Reading pages from the files of an image."""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.pages import Pages, place, source
from zeropod.runtime.pager.wire import Lost


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    descriptors = []
    for name, content in (("one", b"a" * PAGE + b"b" * PAGE), ("two", b"c" * PAGE)):
        (tmp_path / name).write_bytes(content)
        descriptors.append(os.open(tmp_path / name, os.O_RDONLY))
    yield descriptors
    for descriptor in descriptors:
        os.close(descriptor)


def content(pages: Pages, count: int) -> bytes:
    return ctypes.string_at(pages.buffer, count * PAGE)


def test_pages_are_read_from_the_file_and_the_offset_that_a_source_says(files: list[int]) -> None:
    pages = Pages(files)
    pages.read(source(0, 0), 2)
    assert content(pages, 2) == b"a" * PAGE + b"b" * PAGE
    pages.read(source(1, 0), 1)
    assert content(pages, 2) == b"c" * PAGE + b"b" * PAGE
    pages.read(source(0, 0) + PAGE, 1)
    assert content(pages, 1) == b"b" * PAGE


def test_a_source_is_a_file_and_an_offset() -> None:
    assert place(source(7, 5 << 40)) == (7, 5 << 40)


def test_a_file_that_was_cut_short_is_a_loss(files: list[int]) -> None:
    with pytest.raises(Lost, match="cut short"):
        Pages(files).read(source(1, 0), 2)


def test_a_file_that_cannot_be_read_is_a_loss_with_the_reason(files: list[int], tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(Lost, match="directory"):
            Pages([directory]).read(0, 1)
    finally:
        os.close(directory)


def test_a_file_that_was_written_to_is_a_loss(files: list[int], tmp_path: Path) -> None:
    pages = Pages(files, [Fingerprint.of(os.fstat(file)) for file in files])
    pages.check()
    with (tmp_path / "one").open("r+b") as file:
        file.truncate(PAGE)
    with pytest.raises(Lost, match="written to, or cut short"):
        pages.check()


def test_a_file_that_was_deleted_is_read_on(files: list[int], tmp_path: Path) -> None:
    pages = Pages(files, [Fingerprint.of(os.fstat(file)) for file in files])
    (tmp_path / "one").unlink()
    pages.check()
    pages.read(source(0, 0), 1)
    assert content(pages, 1) == b"a" * PAGE
