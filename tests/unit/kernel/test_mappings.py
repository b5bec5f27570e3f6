"""/proc/PID/maps and smaps: one parser for both, which no name and no later kernel's line confuses."""

import mmap
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import mappings
from zeropod.kernel.mappings import Area

SMAPS = r"""5581c0a00000-5581c0a28000 r--p 00000000 fe:00 1234                       /usr/bin/my app\012x (deleted)
Size:                160 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                 100 kB
Anonymous:             0 kB
Locked:                0 kB
THPeligible:           0
ProtectionKey:         0
VmFlags: rd mr mw me
7ffd4c5e6000-7ffd4c607000 rw-p 00000000 00:00 0                          [stack]
Rss:                  20 kB
Anonymous:            16 kB
Swap:                  8 kB
VmFlags: rd wr mr mw me gd ac lo
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
VmFlags: ex
"""


def test_a_text_of_smaps_gives_sizes_in_bytes_and_flags() -> None:
    program, stack, vsyscall = mappings.parse(SMAPS)
    assert program.name == "/usr/bin/my app\nx (deleted)"
    assert (program.start, program.end, program.inode) == (0x5581C0A00000, 0x5581C0A28000, 1234)
    assert program.size("Rss") == 100 << 10
    assert program.private
    assert not program.anonymous
    assert stack.anonymous
    assert stack.size("Swap") == 8 << 10
    assert mappings.LOCKED in stack.flags
    assert vsyscall.end == 0xFFFFFFFFFF601000
    assert (vsyscall.size("Rss"), set(vsyscall.flags)) == (0, {"ex"})


def written(area: Area) -> str:
    name = area.name.replace("\n", r"\012")
    head = f"{area.start:08x}-{area.end:08x} {area.permissions} {area.offset:08x} {area.device} {area.inode}"
    return (f"{head:<72} {name}" if name else head + " ") + area.details + "\n"


addresses = st.integers(0, (1 << 52) - 1).map(lambda page: page << 12)
names = st.one_of(
    st.just(""),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\\"), min_size=1).map(
        lambda tail: "/" + tail
    ),
)
areas = st.builds(
    Area,
    start=addresses,
    end=addresses,
    permissions=st.tuples(*(st.sampled_from(pair) for pair in ("r-", "w-", "x-", "ps"))).map("".join),
    offset=addresses,
    device=st.sampled_from(["00:00", "fe:00", "103:02"]),
    inode=st.integers(0, 1 << 64),
    name=names,
    details=st.lists(st.sampled_from(["Rss:   4 kB", "THPeligible:  0", "VmFlags: rd wr"]), unique=True).map(
        lambda lines: "".join(f"\n{line}" for line in lines)
    ),
)


@given(st.lists(areas))
def test_what_the_kernel_writes_is_read_back(wanted: list[Area]) -> None:
    assert list(mappings.parse("".join(map(written, wanted)))) == wanted


@given(st.text())
def test_no_text_is_too_strange(text: str) -> None:
    list(mappings.parse(text))


@pytest.mark.parametrize("sizes", [True, False])
def test_our_own_mappings_are_found(sizes: bool) -> None:
    ours = mmap.mmap(-1, 3 * mmap.PAGESIZE)
    ours[0] = 1
    found = [area for area in mappings.of(os.getpid(), sizes=sizes) if area.shared_memory]
    assert any(area.end - area.start >= 3 * mmap.PAGESIZE for area in found)
    assert all(bool(area.size("Size")) is bool(area.flags) is sizes for area in found)


def test_a_process_that_is_gone_is_an_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        list(mappings.of(gone.pid))
