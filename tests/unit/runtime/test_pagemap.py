"""CRIU's pagemaps: where a page's contents are, in this image or its parent, and what cannot be lazy."""

import mmap
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime import pagemap
from zeropod.runtime.errors import CriuError
from zeropod.runtime.pagemap import LAZY, PARENT, PRESENT, Runs

PAGE = mmap.PAGESIZE
BASE = 0x7F0000000000


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def message(fields: dict[int, int]) -> bytes:
    body = b"".join(varint(key << 3) + varint(value) for key, value in fields.items())
    return struct.pack("<I", len(body)) + body


def write(path: Path, entries: Sequence[dict[int, int]], pages_id: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(8) + message({1: pages_id}) + b"".join(map(message, entries)))
    present = sum(entry.get(5, entry.get(2, 0)) for entry in entries if entry.get(4, PRESENT) & PRESENT)
    (path.parent / f"pages-{pages_id}.img").write_bytes(bytes(present * PAGE))
    return path


def entry(page: int, pages: int, flags: int = PRESENT | LAZY) -> dict[int, int]:
    return {1: BASE + page * PAGE, 5: pages, 4: flags}


def listed(runs: Runs) -> list[tuple[int, int, int, int, bool]]:
    return [
        ((low - BASE) // PAGE, (high - BASE) // PAGE, file, offset // PAGE, lazy)
        for low, high, file, offset, lazy in runs.within(0, 1 << 62)
    ]


def test_pages_lie_in_the_pages_file_in_the_order_of_their_entries(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-7.img", [entry(0, 2), entry(10, 3, PRESENT), entry(20, 1)])
    image = pagemap.read(tmp_path)
    assert image.files == (tmp_path / "pages-1.img",)
    assert listed(image.processes[7]) == [(0, 2, 0, 0, True), (10, 13, 0, 2, False), (20, 21, 0, 5, True)]


def test_entries_that_follow_each_other_are_one_run(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-1.img", [entry(0, 2), entry(2, 2), entry(4, 1, PRESENT)])
    assert listed(pagemap.read(tmp_path).processes[1]) == [(0, 4, 0, 0, True), (4, 5, 0, 4, False)]


def test_entries_that_are_neither_present_nor_in_the_parent_have_no_contents(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-1.img", [entry(0, 5, LAZY), entry(5, 1)])
    assert listed(pagemap.read(tmp_path).processes[1]) == [(5, 6, 0, 0, True)]


def test_images_without_flags_and_with_the_older_number_of_pages_are_read(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-1.img", [{1: BASE, 2: 3}])
    assert listed(pagemap.read(tmp_path).processes[1]) == [(0, 3, 0, 0, False)]


def test_what_is_in_the_parent_is_found_there(tmp_path: Path) -> None:
    write(tmp_path / "predump" / "pagemap-1.img", [entry(0, 4), entry(6, 4)], pages_id=5)
    write(tmp_path / "images" / "pagemap-1.img", [entry(0, 1), entry(2, 2, PARENT), entry(7, 1, PARENT)])
    (tmp_path / "images" / "parent").symlink_to("../predump")
    image = pagemap.read(tmp_path / "images")
    assert image.files == (tmp_path / "images" / "pages-1.img", tmp_path / "predump" / "pages-5.img")
    assert listed(image.processes[1]) == [(0, 1, 0, 0, True), (2, 4, 1, 2, True), (7, 8, 1, 5, True)]


def test_a_parent_that_lacks_a_page_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "predump" / "pagemap-1.img", [entry(0, 1)])
    write(tmp_path / "images" / "pagemap-1.img", [entry(0, 2, PARENT)])
    (tmp_path / "images" / "parent").symlink_to("../predump")
    with pytest.raises(CriuError, match="lacks pages"):
        pagemap.read(tmp_path / "images")


def test_a_pages_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-1.img", [entry(0, 2)])
    (tmp_path / "pages-1.img").write_bytes(bytes(PAGE))
    with pytest.raises(CriuError, match="cut short"):
        pagemap.read(tmp_path)


@given(st.integers(min_value=0, max_value=200))
def test_a_pagemap_that_ends_anywhere_is_read_up_to_there_or_refused(length: int) -> None:
    whole = bytes(8) + message({1: 1}) + b"".join(message(entry(number, 1)) for number in range(0, 20, 2))
    entries = list(range(10))
    ends = [len(bytes(8) + message({1: 1})) + sum(len(message(entry(2 * n, 1))) for n in entries[:k]) for k in entries]
    try:
        _, read = pagemap.parse(whole[:length])
    except (IndexError, KeyError, struct.error):
        assert length not in ends
    else:
        assert [(found.address - BASE) // PAGE for found in read] == [2 * number for number in range(len(read))]


def test_shared_memory_is_of_no_process(tmp_path: Path) -> None:
    write(tmp_path / "pagemap-1.img", [entry(0, 100), entry(200, 3, PRESENT)])
    write(tmp_path / "pagemap-shmem-99.img", [entry(0, 5, PRESENT)], pages_id=2)
    assert list(pagemap.read(tmp_path).processes) == [1]


def test_parts_of_runs_are_found_by_address() -> None:
    runs = Runs()
    runs.append(BASE, BASE + 4 * PAGE, 0, 0, True)
    runs.append(BASE + 8 * PAGE, BASE + 9 * PAGE, 0, 4 * PAGE, True)
    found = list(runs.within(BASE + 2 * PAGE, BASE + 20 * PAGE))
    assert found == [
        (BASE + 2 * PAGE, BASE + 4 * PAGE, 0, 2 * PAGE, True),
        (BASE + 8 * PAGE, BASE + 9 * PAGE, 0, 4 * PAGE, True),
    ]
    assert runs.pages == 5
