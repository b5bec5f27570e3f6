"""What a process has used of the files that it has mapped, of this very process."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import mapped_files
from zeropod.kernel.mapped_files import AROUND, PAGE

PAGES = 4 * AROUND


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "program"
    path.write_bytes(os.urandom(PAGES * PAGE))
    return path


@pytest.fixture
def mapping(file: Path) -> Iterator[mmap.mmap]:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapping:
        mapping.madvise(mmap.MADV_DONTNEED)
        yield mapping


def used(path: Path) -> list[int]:
    """The addresses that were noted within the mapping of this file."""
    noted = mapped_files.note([os.getpid()])
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    bounds = [[int(bound, 16) for bound in line.split()[0].split("-")] for line in lines]
    return [a for addresses in noted.values() for a in addresses if any(b <= a < e for b, e in bounds)]


def test_what_was_used_is_brought_back_and_nothing_else(file: Path, mapping: mmap.mmap) -> None:
    assert used(file) == []
    assert mapping[AROUND * PAGE] >= 0
    noted = mapped_files.note([os.getpid()])
    before = used(file)
    assert 1 <= len(before) <= 2, "one fault, whose surroundings may be in two blocks"
    mapping.madvise(mmap.MADV_DONTNEED)
    assert used(file) == []
    assert mapped_files.bring_back([os.getpid()], noted) >= len(before)
    assert used(file) == before


def test_what_may_be_written_to_is_left_alone(file: Path) -> None:
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE, protection) as mapping:
        assert mapping[0] >= 0
        assert used(file) == []


def test_what_is_mapped_no_more_is_not_looked_at(file: Path, mapping: mmap.mmap) -> None:
    assert mapping[0] >= 0
    [*noted] = used(file)
    mapping.close()
    assert noted
    assert mapped_files.bring_back([os.getpid()], {_own_pid(): noted}) == 0


def test_a_page_beyond_the_end_of_a_file_that_was_cut_does_not_keep_the_others_away(
    file: Path, mapping: mmap.mmap
) -> None:
    assert mapping[0] + mapping[2 * AROUND * PAGE] >= 0
    addresses = used(file)
    assert len(addresses) >= 2
    os.truncate(file, PAGE)
    mapping.madvise(mmap.MADV_DONTNEED)
    assert mapped_files._touch(os.getpid(), [addresses[-1], addresses[0]]) == 1


def test_a_process_that_is_gone_is_left_out() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    assert mapped_files.note([pid]) == {}
    assert mapped_files.bring_back([pid], {pid: [0]}) == 0


@given(st.lists(st.booleans(), max_size=200), st.integers(0, 1000))
def test_each_block_with_a_page_is_named_once_by_the_first(pages: list[bool], first: int) -> None:
    tops = bytes(0x81 if page else 0x20 for page in pages)
    expected: dict[int, int] = {}
    for index, page in enumerate(pages):
        if page:
            expected.setdefault((first + index) // AROUND, index)
    assert list(mapped_files._one_of_each_block(tops, first)) == list(expected.values())


def _own_pid() -> int:
    return mapped_files._own_pid(os.getpid())
