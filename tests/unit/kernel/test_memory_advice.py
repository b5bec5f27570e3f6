"""process_madvise(2) on a child: a file's pages leave its memory, whether or not the node has swap."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.kernel import mappings, memory_advice

SIZE = 8 << 20

READER = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    memory = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
sum(memory[::4096])
print("ready", flush=True)
for line in sys.stdin:
    print(sum(memory[::4096]), flush=True)
"""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    file = tmp_path / "file"
    with open(file, "wb") as made:
        made.write(b"\1" * SIZE)
        made.flush()
        os.fsync(made.fileno())
    if b"tmpfs" in subprocess.run(["stat", "-f", "-c", "%T", file], check=True, capture_output=True).stdout:
        pytest.skip("needs a file on a disk")
    command = [sys.executable, "-c", READER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


@pytest.fixture
def handle(reader: subprocess.Popen[str]) -> Iterator[int]:
    opened = os.pidfd_open(reader.pid)
    try:
        yield opened
    finally:
        os.close(opened)


def of_file(pid: int) -> mappings.Area:
    return next(area for area in mappings.of(pid) if area.name.endswith("/file"))


def test_pages_leave_and_come_back(reader: subprocess.Popen[str], handle: int) -> None:
    area = of_file(reader.pid)
    assert area.size("Rss") == SIZE
    assert memory_advice.page_out(handle, [(area.start, area.end)]) == SIZE
    assert of_file(reader.pid).size("Rss") < SIZE // 10
    out, _ = reader.communicate("sum\n", timeout=10)
    assert out == f"{SIZE // 4096}\n"


def test_ranges_that_cannot_go_are_passed_over(reader: subprocess.Popen[str], handle: int) -> None:
    area = of_file(reader.pid)
    pages = [(at, at + mmap.PAGESIZE) for at in range(area.start, area.end, mmap.PAGESIZE)]
    nothing = (mmap.PAGESIZE, 2 * mmap.PAGESIZE)
    # More than one call takes, with holes at the beginning, at a border, and at the end.
    ranges = [nothing, *pages[:1022], nothing, nothing, *pages[1022:], nothing]
    assert memory_advice.page_out(handle, ranges) == SIZE
    assert of_file(reader.pid).size("Rss") < SIZE // 10


def test_a_process_that_is_gone_is_an_error(reader: subprocess.Popen[str], handle: int) -> None:
    reader.kill()
    reader.wait()
    with pytest.raises(ProcessLookupError):
        memory_advice.page_out(handle, [(mmap.PAGESIZE, 2 * mmap.PAGESIZE)])


def test_nothing_is_done_for_nothing() -> None:
    assert memory_advice.page_out(-1, []) == 0
