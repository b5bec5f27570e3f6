"""PAGEMAP_SCAN on our own memory, and userfaultfd's write protection, which it reports."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel import pagemap_scan, userfault
from zeropod.kernel.pagemap_scan import FILE, PRESENT, WRITTEN
from zeropod.kernel.userfault import PAGE

pytestmark = pytest.mark.skipif(not pagemap_scan.available(), reason="PAGEMAP_SCAN needs Linux 6.7")

PAGES = 64


@pytest.fixture
def pagemap() -> Iterator[int]:
    descriptor = pagemap_scan.open(os.getpid())
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def area() -> Iterator[tuple[mmap.mmap, int]]:
    """Memory of our own that no huge page covers, and its address."""
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    pin = ctypes.c_char.from_buffer(memory)
    yield memory, ctypes.addressof(pin)
    del pin
    memory.close()


def pages(regions: Iterator[pagemap_scan.Region], base: int) -> list[int]:
    return [(at - base) // PAGE for region in regions for at in range(region.start, region.end, PAGE)]


def test_pages_that_are_there_are_found_and_joined(pagemap: int, area: tuple[mmap.mmap, int]) -> None:
    memory, base = area
    for page in (3, 4, 5, 60):
        memory[page * PAGE] = 1
    found = list(pagemap_scan.scan(pagemap, base, base + PAGES * PAGE, every=PRESENT, no=FILE))
    assert [((r.start - base) // PAGE, (r.end - base) // PAGE) for r in found] == [(3, 6), (60, 61)]
    assert all(region.categories & PRESENT and not region.categories & FILE for region in found)
    # Whatever the answer holds at once.
    absent = pagemap_scan.scan(pagemap, base, base + PAGES * PAGE, no=PRESENT)
    assert pages(absent, base) == [page for page in range(PAGES) if page not in (3, 4, 5, 60)]


def test_an_answer_is_continued(pagemap: int, area: tuple[mmap.mmap, int], monkeypatch: pytest.MonkeyPatch) -> None:
    memory, base = area
    for page in range(0, PAGES, 2):
        memory[page * PAGE] = 1
    monkeypatch.setattr(pagemap_scan, "_REGIONS", 3)
    found = pagemap_scan.scan(pagemap, base, base + PAGES * PAGE, some=PRESENT)
    assert pages(found, base) == list(range(0, PAGES, 2))


def test_pages_of_files_and_what_is_not_mapped(pagemap: int, area: tuple[mmap.mmap, int], tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 * PAGE))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 3 * PAGE) as mapped:
        start = ctypes.addressof(anchor := ctypes.c_char.from_buffer(mapped))
        assert anchor.value == b"\0"
        (region,) = pagemap_scan.scan(pagemap, start, start + PAGE, every=PRESENT | FILE)
        del anchor
    assert region.categories & FILE
    assert list(pagemap_scan.scan(pagemap, PAGE, 16 * PAGE, every=PRESENT)) == []


@pytest.mark.skipif(not os.path.exists(userfault.DEVICE), reason="needs /dev/userfaultfd")
def test_what_is_written_after_it_was_protected(pagemap: int, area: tuple[mmap.mmap, int]) -> None:
    memory, base = area
    for page in range(8):
        memory[page * PAGE] = 1
    offered = userfault.offered()
    wanted = userfault.PAGEFAULT_FLAG_WP | userfault.WP_ASYNC | userfault.WP_UNPOPULATED
    if offered & wanted != wanted:
        pytest.skip("asynchronous write protection needs Linux 6.7")
    device = userfault.device()
    uffd = userfault.new(device)
    os.close(device)
    try:
        assert userfault.handshake(uffd, wanted) & wanted == wanted
        with pytest.raises(OSError, match="Invalid"):
            userfault.handshake(uffd, wanted)
        userfault.register(uffd, base, PAGES * PAGE, userfault.MISSING | userfault.WRITES)

        def written(**more: bool) -> list[int]:
            return pages(pagemap_scan.scan(pagemap, base, base + 8 * PAGE, every=PRESENT | WRITTEN, **more), base)

        assert written(protect=True) == list(range(8))
        assert written() == []
        memory[5 * PAGE] = 2
        assert written() == [5]
        userfault.write_protect(uffd, base, PAGES * PAGE)
        assert written() == []
        # A page that is copied in is clean from the beginning.
        source = ctypes.create_string_buffer(b"c" * 2 * PAGE)
        at = ctypes.addressof(source) + -ctypes.addressof(source) % PAGE
        assert userfault.copy(uffd, base + 10 * PAGE, at, PAGE, protected=True) == (PAGE, 0)
        assert userfault.copy(uffd, base + 11 * PAGE, at, PAGE) == (PAGE, 0)
        found = pagemap_scan.scan(pagemap, base + 8 * PAGE, base + PAGES * PAGE, every=PRESENT | WRITTEN)
        assert pages(found, base) == [11]
        assert memory[10 * PAGE] == memory[11 * PAGE] == ord("c")
        memory[10 * PAGE] = 3
        found = pagemap_scan.scan(pagemap, base + 8 * PAGE, base + PAGES * PAGE, every=PRESENT | WRITTEN)
        assert pages(found, base) == [10, 11]
        assert userfault.alive(uffd)
        userfault.unregister(uffd, base, PAGES * PAGE)
        assert memory[12 * PAGE] == 0
        # Nothing is protected any more, and what is not registered cannot be.
        assert written() == list(range(8))
        with pytest.raises(OSError, match="No such file"):
            userfault.write_protect(uffd, base, PAGE)
    finally:
        os.close(uffd)
