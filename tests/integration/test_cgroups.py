"""Cgroups of the running kernel: v1 as the test node mounts it, v2 on a mount of the test's own.

The v2 hierarchy of a v1 node has no controllers, but the freezer and the change notifications belong to its
core and are the real ones here. The unit tests read v2 statistics from plain files.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.integration import cgroup as cgroup_dirs

from zeropod.runtime import cgroups
from zeropod.runtime.cgroups.change import Changes

V1 = Path("/sys/fs/cgroup")
CONTROLLERS = ("blkio", "cpu", "cpuacct", "freezer", "memory", "pids")

MEBIBYTE = 2**20

#: The number of userfaultfd(2).
USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]

THREADS = """
import threading, time
for _ in range(20):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("ready", flush=True)
while True:
    pass
"""

HUNGRY = """
input()
held = []
while True:
    held.append(bytearray(2**20))
"""

# Nobody serves this page: the kernel waits for it on the program's behalf, in the middle of a system call. It
# does the same in a lazily restored process whose page server is stopped. With an argument it has only the page, once
# somebody else has the descriptor.
MISSING_PAGE = f"""
import ctypes, fcntl, mmap, os, struct, sys
descriptor = ctypes.CDLL(None).syscall({USERFAULTFD}, os.O_CLOEXEC)
UFFDIO_API, UFFDIO_REGISTER, MISSING = 0xC018AA3F, 0xC020AA00, 1
fcntl.ioctl(descriptor, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
page = mmap.mmap(-1, mmap.PAGESIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
fcntl.ioctl(descriptor, UFFDIO_REGISTER, struct.pack("QQQQ", address, mmap.PAGESIZE, MISSING, 0))
print(descriptor if sys.argv[1:] else "ready", flush=True)
if sys.argv[1:]:
    input()
    os.close(descriptor)
os.write(os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR), page)
"""


def unheard_of() -> str:
    """A name for a cgroup that no other test has.

    Nodes side by side have one v2 hierarchy in common, and a CRIU that dumps in the other one takes what is there for
    its container's: it makes the cgroup anew whenever it restores.
    """
    return f"zeropod-test-{os.urandom(4).hex()}"


def remove(cgroup: cgroups.Cgroup) -> None:
    """Remove a cgroup whose processes have been killed; it stays busy for some milliseconds."""
    for _ in range(1000):
        if cgroup_dirs.remove(cgroup):
            return
        time.sleep(0.001)
    raise AssertionError(f"{cgroup} cannot be removed")


class Corner:
    """A cgroup that the test makes, and removes with all that is in it however the test ends."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self.paths = paths
        self.children: list[subprocess.Popen[str]] = []
        for path in paths.values():
            path.mkdir()

    def start(self, program: str, *, ready: bool = True) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", f"input()\n{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        for path in self.paths.values():
            (path / "cgroup.procs").write_text(str(child.pid))
        self.tell(child)
        if ready:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        return child

    def tell(self, child: subprocess.Popen[str]) -> None:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()

    def clear(self) -> None:
        cgroup = cgroups.at(self.paths)
        cgroup.thaw()
        for child in self.children:
            child.kill()
            child.communicate()
        remove(cgroup)


@pytest.fixture
def corner() -> Iterator[Corner]:
    if not (V1 / "memory").is_dir():
        pytest.skip("this node has cgroup v2 alone")
    name = unheard_of()
    made = Corner({controller: V1 / controller / name for controller in CONTROLLERS})
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture
def unified(tmp_path: Path) -> Iterator[Corner]:
    subprocess.run(["mount", "-t", "cgroup2", "none", tmp_path], check=True)
    try:
        made = Corner({"": tmp_path / unheard_of()})
        try:
            yield made
        finally:
            made.clear()
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.fixture(params=["v1", "v2"])
def either(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("corner" if request.param == "v1" else "unified")


def soon(seconds: float = 5) -> float:
    return trio.current_time() + seconds


def cpu_time(pid: int) -> int:
    """Clock ticks a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def stands_still(pid: int) -> bool:
    """Whether a process that would always run does not get three clock ticks further."""
    before = cpu_time(pid)
    time.sleep(0.03)
    return cpu_time(pid) == before


def in_page_fault(pid: int) -> bool:
    return Path(f"/proc/{pid}/wchan").read_text() == "handle_userfault"


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so, for the things of which the kernel tells nobody."""
    for _ in range(2000):
        if condition():
            return
        await trio.sleep(0.005)
    raise AssertionError("it did not come about within 10 seconds")


def test_a_process_s_cgroup_is_found_and_known_again_when_it_is_gone(corner: Corner) -> None:
    child = corner.start(THREADS)
    cgroup = cgroups.of(child.pid)
    assert isinstance(cgroup, cgroups.CgroupV1)
    assert {name: Path(path) for name, path in cgroup.paths.items() if name in CONTROLLERS} == corner.paths
    assert cgroup.pids() == [child.pid]
    child.kill()
    child.wait()
    with pytest.raises(cgroups.CgroupNotFound, match="is gone"):
        cgroups.of(child.pid)
    again = cgroups.at(cgroup.paths)
    assert again.pids() == []


async def test_a_frozen_cgroup_stands_still_until_it_is_thawed(either: Corner) -> None:
    cgroup = cgroups.at(either.paths)
    child = either.start(THREADS)
    assert not cgroup.frozen()
    for _ in range(10):
        await cgroup.freeze(soon())
        assert cgroup.frozen()
        assert stands_still(child.pid)
        cgroup.thaw()
        cgroup.thaw()
        assert not cgroup.frozen()
    await until(lambda: not stands_still(child.pid))


async def test_an_empty_cgroup_freezes_and_a_removed_one_does_not(either: Corner) -> None:
    cgroup = cgroups.at(either.paths)
    await cgroup.freeze(soon())
    remove(cgroup)
    cgroup.thaw()
    with pytest.raises(cgroups.CgroupError, match="cannot freeze"):
        await cgroup.freeze(soon())


async def test_processes_in_sub_cgroups_are_counted_and_frozen_with_the_others(either: Corner) -> None:
    cgroup = cgroups.at(either.paths)
    outer, inner = either.start(THREADS), either.start(THREADS)
    for path in either.paths.values():
        (path / "inner").mkdir()
        (path / "inner" / "cgroup.procs").write_text(str(inner.pid))
    assert cgroup.pids() == sorted([outer.pid, inner.pid])
    await cgroup.freeze(soon())
    assert stands_still(inner.pid)


async def test_a_task_that_cannot_freeze_is_named_and_the_others_run_again(either: Corner) -> None:
    cgroup = cgroups.at(either.paths)
    busy, stuck = either.start(THREADS), either.start(MISSING_PAGE)
    await until(lambda: in_page_fault(stuck.pid))
    with pytest.raises(cgroups.FreezeTimeout) as caught:
        await cgroup.freeze(soon(0.2))
    assert len(caught.value.unfrozen) == 1
    assert f"of process {stuck.pid}" in caught.value.unfrozen[0]
    assert not cgroup.frozen()
    await until(lambda: not stands_still(busy.pid))


async def test_a_cancelled_freeze_leaves_nothing_frozen(either: Corner) -> None:
    cgroup = cgroups.at(either.paths)
    stuck = either.start(MISSING_PAGE)
    await until(lambda: in_page_fault(stuck.pid))
    with trio.move_on_after(0.05) as scope:
        await cgroup.freeze(soon())
    assert scope.cancelled_caught
    assert not cgroup.frozen()


async def test_a_v1_container_is_measured(corner: Corner) -> None:
    (corner.paths["pids"] / "pids.max").write_text("50")
    (corner.paths["memory"] / "memory.limit_in_bytes").write_text(str(256 * MEBIBYTE))
    child = corner.start(
        f"held = bytearray({32 * MEBIBYTE})\nfor i in range(0, len(held), 4096): held[i] = 1\n{THREADS}"
    )
    cgroup = cgroups.of(child.pid)
    await until(lambda: cpu_time(child.pid) >= 10)
    found = cgroup.stats()
    assert isinstance(found, cgroups.MetricsV1)
    assert found.pids.current == 21
    assert found.pids.limit == 50
    assert found.cpu.usage.total > 50_000_000
    assert sum(found.cpu.usage.per_cpu) > 50_000_000
    assert found.cpu.usage.user + found.cpu.usage.kernel > 50_000_000
    assert found.memory.usage.limit == 256 * MEBIBYTE
    assert found.memory.hierarchical_memory_limit == 256 * MEBIBYTE
    assert 32 * MEBIBYTE < found.memory.total_rss <= found.memory.usage.usage <= found.memory.usage.max
    assert found.memory.total_pg_fault > 32 * MEBIBYTE // 4096
    assert found.memory_oom_control.oom_kill == 0
    assert 32 * MEBIBYTE < cgroup.resident_bytes() <= found.memory.usage.usage + MEBIBYTE
    child.kill()
    child.wait()
    asleep = cgroups.asleep(found)
    assert asleep.pids.current == asleep.memory.usage.usage == 0
    last = cgroup.stats()
    assert isinstance(last, cgroups.MetricsV1)
    later = cgroups.accumulate(found, last)
    assert later.cpu.usage.total >= 2 * found.cpu.usage.total


SHARED = f"""
import mmap, os
held = os.memfd_create("shared")
for _ in range({16 * MEBIBYTE} // 65536):
    os.write(held, bytes(65536))
with open(os.__file__, "rb") as file:
    cached = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    sum(cached[::4096])
print("ready", flush=True)
input()
"""


def test_shared_memory_that_nobody_has_mapped_is_resident(corner: Corner) -> None:
    child = corner.start(SHARED)
    cgroup = cgroups.of(child.pid)
    assert 16 * MEBIBYTE < cgroup.resident_bytes() < 32 * MEBIBYTE
    child.kill()
    child.wait()
    assert cgroup.resident_bytes() < MEBIBYTE


def limit_memory(corner: Corner) -> None:
    """To 32 MiB, of swap too where that is accounted: otherwise memory goes there."""
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        if (file := corner.paths["memory"] / name).exists():
            file.write_text(str(32 * MEBIBYTE))


async def test_an_out_of_memory_kill_is_reported_and_the_watch_ends_with_the_cgroup(corner: Corner) -> None:
    limit_memory(corner)
    cgroup = cgroups.at(corner.paths)
    child = corner.start(HUNGRY, ready=False)
    events: list[float] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cgroup.watch_oom, lambda: events.append(trio.current_time()))
            await trio.testing.wait_all_tasks_blocked()
            assert events == []
            corner.tell(child)
            await until(lambda: bool(events))
            assert child.wait() == -9
            assert cgroup.oom_kills() == 1
            stats = cgroup.stats()
            assert isinstance(stats, cgroups.MetricsV1)
            assert stats.memory_oom_control.oom_kill == 1
            reported = len(events)
            await until(lambda: cgroup_dirs.remove(cgroup))
    # Removing a cgroup wakes the watcher, too, and is no news.
    assert len(events) == reported


async def test_a_kill_just_before_the_removal_is_not_lost(corner: Corner) -> None:
    limit_memory(corner)
    cgroup = cgroups.at(corner.paths)
    child = corner.start(HUNGRY, ready=False)
    events: list[str] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cgroup.watch_oom, lambda: events.append("oom"))
            await trio.testing.wait_all_tasks_blocked()
            # All of it behind the event loop's back.
            corner.tell(child)
            child.wait()
            remove(cgroup)
    assert events == ["oom"]


async def test_an_earlier_kill_is_reported_when_the_watch_begins(corner: Corner) -> None:
    limit_memory(corner)
    child = corner.start(HUNGRY, ready=False)
    corner.tell(child)
    child.wait()
    events: list[str] = []
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cgroups.at(corner.paths).watch_oom, lambda: events.append("oom"))
            await until(lambda: bool(events))
            nursery.cancel_scope.cancel()


async def test_a_v2_file_s_change_ends_a_wait_and_nothing_else_does(unified: Corner) -> None:
    child = unified.start(THREADS)
    with Changes(unified.paths[""], "cgroup.events") as changes:
        assert "populated 1" in (changes.read("cgroup.events") or "")
        with trio.move_on_after(0.05) as scope:
            await changes.wait()
        assert scope.cancelled_caught
        child.kill()
        with trio.fail_after(5):
            await changes.wait()
        assert "populated 0" in (changes.read("cgroup.events") or "")
        child.wait()
        remove(cgroups.at(unified.paths))
        assert changes.read("cgroup.events") is None


async def test_a_watch_without_a_memory_controller_ends_at_once(unified: Corner) -> None:
    if (unified.paths[""] / "memory.events").exists():
        pytest.skip("it has the controller here")
    with trio.fail_after(5):
        await cgroups.at(unified.paths).watch_oom(lambda: None)
