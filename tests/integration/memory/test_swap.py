"""Memory that goes to swap and comes back: with a swap file of the test's own, on a disk.

Swap is the whole machine's: it is on for these tests only, of half a GiB, and off again however they end.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from tests.integration.cgroup import remove

from zeropod.runtime import cgroups
from zeropod.runtime.memory import choice
from zeropod.runtime.memory.backend import Kind, MemoryFailed
from zeropod.runtime.memory.limits import restore_limits
from zeropod.runtime.memory.swap import SwapBackend

CGROUPS = Path("/sys/fs/cgroup")
V2 = (CGROUPS / "cgroup.controllers").exists()
CHECKOUT = Path(__file__).parents[3]
DISK = CHECKOUT / "build"
"""The node's own files are in memory or on an overlay, neither of which can hold a swap file."""
MEBIBYTE = 1 << 20
SUBJECT = Path(__file__).with_name("swap_subject.py")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def swap() -> Iterator[Path]:
    file = DISK / f"test-swap-{os.getpid()}"
    try:
        with open(file, "wb") as made:
            os.fchmod(made.fileno(), 0o600)
            os.posix_fallocate(made.fileno(), 0, 512 * MEBIBYTE)
        subprocess.run(["mkswap", file], check=True, stdout=subprocess.DEVNULL)
        switched_on = subprocess.run(["swapon", file], check=False, capture_output=True, text=True)
        if switched_on.returncode:
            pytest.skip(f"no swap file on this disk: {switched_on.stderr}")
        yield file
    finally:
        subprocess.run(["swapoff", file], check=False, capture_output=True, timeout=60)
        file.unlink(missing_ok=True)


class Subject:
    """A process in a cgroup of its own."""

    def __init__(self, own: int, shared: int = 0) -> None:
        name = f"zeropod-swap-{os.urandom(4).hex()}"
        if V2:
            paths = {"": CGROUPS / name}
            self.limit, self.closed = paths[""] / "memory.swap.max", "0"
        else:
            paths = {controller: CGROUPS / controller / name for controller in ("memory", "freezer")}
            self.limit, self.closed = paths["memory"] / "memory.swappiness", "0"
        for path in paths.values():
            path.mkdir()
        self.limit.write_text(self.closed)
        self.cgroup = cgroups.at(paths)
        self.process = subprocess.Popen(
            ["sh", "-c", f"read go; exec {sys.executable} {SUBJECT} {own} {shared}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for path in paths.values():
            (path / "cgroup.procs").write_text(str(self.process.pid))
        self.ask("go")
        self.digest = self.ask("digest")

    def ask(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    async def freeze(self) -> None:
        await self.cgroup.freeze(trio.current_time() + 5)

    def usage(self) -> int:
        memory = self.cgroup.stats().memory
        return memory.usage if isinstance(memory.usage, int) else memory.usage.usage

    def major_faults(self) -> int:
        """How many pages had to be read from a disk so far."""
        return int(Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[9])

    def file_pages(self) -> int:
        lines = (self.limit.parent / "memory.stat").read_text().splitlines()
        stat = {name.removeprefix("total_"): int(value) for name, value in map(str.split, lines)}
        return stat["active_file"] + stat["inactive_file"]

    def close(self) -> None:
        self.cgroup.thaw()
        for pid in self.cgroup.pids():
            os.kill(pid, 9)
        self.process.communicate()
        until = time.monotonic() + 10
        while not remove(self.cgroup):
            assert time.monotonic() < until
            time.sleep(0.001)


@pytest.fixture
def subject(swap: Path) -> Iterator[Subject]:
    yield from _subject(100)


@pytest.fixture
def forked(swap: Path) -> Iterator[Subject]:
    yield from _subject(30, 30)


def _subject(own: int, shared: int = 0) -> Iterator[Subject]:
    made = Subject(own, shared)
    try:
        yield made
    finally:
        made.close()


async def test_the_node_offers_swap(swap: Path) -> None:
    node = choice.facts()
    assert choice.choose("auto", node, 100 * MEBIBYTE)[0] is Kind.SWAP
    print("\n".join(choice.advice(node)))


async def test_memory_goes_out_and_comes_back_right(subject: Subject, tmp_path: Path) -> None:
    backend = SwapBackend(subject.cgroup, tmp_path / "record")
    for sleep in range(3):
        await subject.freeze()
        begun = time.perf_counter()
        await backend.move_out(subject.cgroup.pids())
        out = time.perf_counter() - begun
        state = subject.cgroup.swap_state()
        print(f"sleep {sleep}: {1e3 * out:.0f} ms, {state}, {backend.usage}", end="; ")
        assert backend.usage.out > 95 * MEBIBYTE
        assert subject.usage() < 8 * MEBIBYTE
        assert not (tmp_path / "record").exists()
        assert subject.limit.read_text().split() == [subject.closed]
        begun = time.perf_counter()
        subject.cgroup.thaw()
        subject.ask("first")
        first = time.perf_counter() - begun
        if sleep != 1:  # the second wake touches little
            assert subject.ask("digest") == subject.digest
        print(f"awake {1e3 * first:.2f} ms, digest after {1e3 * (time.perf_counter() - begun):.0f} ms")
    assert backend.kind is Kind.SWAP
    await backend.close()


async def test_what_a_wake_touched_is_read_in_before_the_next_one(subject: Subject, tmp_path: Path) -> None:
    backend = SwapBackend(subject.cgroup, tmp_path / "record")
    reads = []
    for _ in range(4):
        await subject.freeze()
        await backend.move_out(subject.cgroup.pids())
        await backend.fill()
        await trio.sleep(0.1)  # the disk
        before = subject.major_faults()
        assert subject.usage() < 8 * MEBIBYTE
        subject.cgroup.thaw()
        subject.ask("first")
        reads.append(subject.major_faults() - before)
    print(f"reads from the disk at each wake: {reads}")
    # Nothing is known at the first one. The others read a page or two, of files or what happened to be there.
    assert reads[0] > 20
    assert max(reads[2:]) <= 5
    assert subject.ask("digest") == subject.digest
    await backend.close()


async def test_what_a_fork_or_a_mapping_shares_goes_out_through_the_cgroup(forked: Subject, tmp_path: Path) -> None:
    backend = SwapBackend(forked.cgroup, tmp_path / "record")
    assert len(forked.cgroup.pids()) == 2
    await forked.freeze()
    begun = time.perf_counter()
    await backend.move_out(forked.cgroup.pids())
    print(f"{1e3 * (time.perf_counter() - begun):.0f} ms, {forked.cgroup.swap_state()}")
    assert backend.usage.out > 55 * MEBIBYTE
    assert forked.usage() < 8 * MEBIBYTE
    forked.cgroup.thaw()
    assert forked.ask("digest") == forked.digest


@pytest.mark.parametrize("after", [0.0, 0.005, 0.03, 0.06, 0.1, 0.15])
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_move_is_cut_within_milliseconds(
    subject: Subject, tmp_path: Path, after: float, cancelled: bool
) -> None:
    backend = SwapBackend(subject.cgroup, tmp_path / "record")
    await subject.freeze()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.move_out, subject.cgroup.pids())
        await trio.sleep(after)
        begun = time.perf_counter()
        if cancelled:
            nursery.cancel_scope.cancel()
        else:
            backend.cut()
        subject.cgroup.thaw()
        subject.ask("first")
        answered = time.perf_counter() - begun
        with trio.CancelScope(shield=True):
            await backend.settle()
        settled = time.perf_counter() - begun
    out = subject.cgroup.swap_state()
    print(f"cut after {1e3 * after:.0f} ms: answered {1e3 * answered:.2f} ms, settled {1e3 * settled:.2f} ms, {out}")
    assert settled < 0.1
    assert not (tmp_path / "record").exists()
    assert subject.limit.read_text().split() == [subject.closed]
    assert subject.ask("digest") == subject.digest


@pytest.mark.parametrize("after", [0.0, 0.003, 0.01])
async def test_reclaiming_is_cut_within_milliseconds(
    subject: Subject, tmp_path: Path, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SwapBackend(subject.cgroup, tmp_path / "record")
    reclaim, reclaiming, cut = subject.cgroup.reclaim_to_swap, threading.Event(), [0.0]

    def watched(size: int, over: Callable[[], bool]) -> None:
        reclaiming.set()
        reclaim(size, over)

    monkeypatch.setattr(subject.cgroup, "reclaim_to_swap", watched)
    await subject.freeze()

    def cut_it() -> None:
        reclaiming.wait(10)
        time.sleep(after)
        cut[0] = time.perf_counter()
        backend.cut()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, cut_it)
        await backend.move_out(subject.cgroup.pids())
        settled = time.perf_counter() - cut[0]
    print(f"reclaim cut after {1e3 * after:.0f} ms: settled {1e3 * settled:.2f} ms, {subject.cgroup.swap_state()}")
    assert settled < 0.05
    subject.cgroup.thaw()
    assert subject.ask("digest") == subject.digest


async def test_a_container_that_writes_while_it_moves_loses_nothing(subject: Subject, tmp_path: Path) -> None:
    backend = SwapBackend(subject.cgroup, tmp_path / "record")
    slowest = 0.0
    writes = [0]

    async def write() -> None:
        nonlocal slowest
        for at in range(0, 100 * MEBIBYTE, 100 * MEBIBYTE // 199):
            begun = time.perf_counter()
            await trio.to_thread.run_sync(subject.ask, f"write {at}")
            slowest = max(slowest, time.perf_counter() - begun)
            writes.append(at)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.move_out, subject.cgroup.pids())
        await write()
        backend.cut()
    assert subject.ask("digest") != subject.digest
    # Adding 256 to each brings everything back to what it was.
    for _ in range(255):
        for at in writes[1:]:
            subject.ask(f"write {at}")
    print(f"slowest write {1e3 * slowest:.2f} ms, {subject.cgroup.swap_state()}")
    assert subject.ask("digest") == subject.digest


def test_a_successor_puts_back_what_a_dead_shim_has_opened(subject: Subject, tmp_path: Path) -> None:
    record, file = tmp_path / "record", subject.limit
    program = (
        "import os, sys; from pathlib import Path; from zeropod.runtime.memory.limits import opened\n"
        "with opened(Path(sys.argv[1]), {Path(sys.argv[2]): sys.argv[3]}): os._exit(0)"
    )
    opened = "max" if V2 else "200"
    command = [sys.executable, "-c", program, str(record), str(file), opened]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT / "src")})
    assert file.read_text().split() == [opened]
    restore_limits(record)
    assert file.read_text().split() == [subject.closed]
    assert not record.exists()


async def test_full_swap_is_a_failure_that_leaves_the_container_whole(swap: Path, tmp_path: Path) -> None:
    held = Subject(choice.facts().free_swap // MEBIBYTE - 20)
    try:
        await held.freeze()
        await SwapBackend(held.cgroup, tmp_path / "held").move_out(held.cgroup.pids())
        other = Subject(100)
        try:
            await other.freeze()
            begun = time.perf_counter()
            with pytest.raises(MemoryFailed, match="MiB could not be moved to swap; is it full") as failed:
                await SwapBackend(other.cgroup, tmp_path / "other").move_out(other.cgroup.pids())
            print(f"{1e3 * (time.perf_counter() - begun):.0f} ms: {failed.value}; {other.cgroup.swap_state()}")
            assert other.limit.read_text().split() == [other.closed]
            other.cgroup.thaw()
            assert other.ask("digest") == other.digest
        finally:
            other.close()
    finally:
        held.close()


async def test_page_cache_is_spared_as_far_as_the_kernel_can_be_told(subject: Subject, tmp_path: Path) -> None:
    file = DISK / f"test-swap-file-{os.getpid()}"
    try:
        file.write_bytes(os.urandom(40 * MEBIBYTE))
        _drop(file)
        for _ in range(2):
            subject.ask(f"read {file}")
        before = subject.file_pages()
        await subject.freeze()
        await SwapBackend(subject.cgroup, tmp_path / "record").move_out(subject.cgroup.pids())
        print(f"page cache: before {before >> 20} MiB, after {subject.file_pages() >> 20} MiB")
        assert before > 35 * MEBIBYTE
        assert subject.cgroup.swap_state().out > 95 * MEBIBYTE
    finally:
        file.unlink(missing_ok=True)


def _drop(file: Path) -> None:
    """Take a file out of the page cache: its pages are charged to the cgroup that reads them next."""
    with open(file, "rb") as made:
        os.fsync(made.fileno())
        os.posix_fadvise(made.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
