"""Memory that goes to the page store and comes back, of a process whose every page can be checked.

They need root, a freezer of their own and /dev/userfaultfd, no container. Where there is a compiler the process is a
small C program, as what a wake costs would otherwise be an interpreter's.
"""

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio
from tests.integration.cgroup import remove
from tests.integration.patience import patient
from tests.integration.programs import compiled

from zeropod.kernel import proc_stat
from zeropod.kernel.userfault import PAGE
from zeropod.runtime import cgroups
from zeropod.runtime.memory.backend import MemoryFailed
from zeropod.runtime.memory.store import StoreBackend
from zeropod.runtime.memory.userfault import mappings
from zeropod.runtime.pager import seed

CGROUPS = Path("/sys/fs/cgroup")
V2 = (CGROUPS / "cgroup.controllers").exists()
MEBIBYTE = 1 << 20
ANSWER = patient(60.0)
"""Seconds."""
SOURCE = Path(__file__).with_name("store_subject.c")
STRESS = Path(__file__).with_name("store_stress.c")
SCRIPT = Path(__file__).with_name("store_subject.py")
CYCLES = int(os.environ.get("STORE_CYCLES", "12"))
"""How many sleeps the long tests have; more by hand."""

pytestmark = [
    pytest.mark.timeout(patient(120 + CYCLES * 10)),
    pytest.mark.skipif(not os.path.exists("/dev/userfaultfd"), reason="needs Linux 6.1"),
]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    made = compiled(SOURCE, tmp_path_factory.mktemp("store"))
    return [str(made)] if made else [sys.executable, str(SCRIPT)]


@contextmanager
def freezer() -> Iterator[cgroups.Cgroup]:
    """A cgroup of its own."""
    name = f"zeropod-store-{os.urandom(4).hex()}"
    paths = {"": CGROUPS / name} if V2 else {"freezer": CGROUPS / "freezer" / name}
    for path in paths.values():
        path.mkdir()
    cgroup = cgroups.at(paths)
    try:
        yield cgroup
    finally:
        for _ in range(200):
            cgroup.thaw()
            for pid in cgroup.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if remove(cgroup):
                break
            time.sleep(0.02)


class Subject:
    """The process, and the backend that has its memory."""

    def __init__(self, process: "subprocess.Popen[bytes]", cgroup: cgroups.Cgroup, backend: StoreBackend) -> None:
        assert process.stdin
        assert process.stdout
        self.process = process
        self.cgroup = cgroup
        self.backend = backend
        self._commands = process.stdin
        self._answers = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        self._read = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def say(self, command: str) -> None:
        os.write(self._commands.fileno(), command.encode() + b"\n")

    async def answer(self) -> str:
        try:
            return await self._line()
        except trio.TooSlowError:
            before = self.backend.usage
            await trio.sleep(1)
            after = self.backend.usage
            waits = self._waits()
            raise AssertionError(f"no answer; threads wait in {waits}; {before}, a second later {after}") from None

    def _waits(self) -> dict[str, str]:
        """Return where in the kernel each thread waits."""
        return {path.name: (path / "wchan").read_text() for path in Path(f"/proc/{self.pid}/task").iterdir()}

    async def _line(self) -> str:
        with trio.fail_after(ANSWER):
            while b"\n" not in self._read:
                part = await self._answers.receive_some()
                if not part:
                    raise EOFError(f"the process ended with {self.process.wait(5)}")
                self._read += part
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def ask(self, command: str) -> str:
        self.say(command)
        return await self.answer()

    async def freeze(self) -> None:
        await self.cgroup.freeze(trio.current_time() + 5)

    async def sleep(self) -> None:
        await self.freeze()
        await self.backend.move_out(self.cgroup.pids())
        assert self.cgroup.frozen()

    def wake(self) -> None:
        self.backend.cut()
        self.cgroup.thaw()

    @property
    def resident(self) -> int:
        return mappings.Status.of(self.pid).anonymous

    @property
    def pager(self) -> int:
        """Its pid."""
        generation = self.backend._holdings.generation
        assert generation
        return generation.pager.pid

    @property
    def pieces(self) -> int:
        """In how many its pages lie in the store."""
        generation = self.backend._holdings.generation
        assert generation
        return len(generation.spaces.all[0].starts)

    async def close(self) -> None:
        await self._answers.aclose()


def forker_of(pager: int) -> int:
    """The pid of the process that a pager was forked from; 0 if that has ended. Raises FileNotFoundError."""
    parent = proc_stat.read(pager).parent
    return parent if Path(f"/proc/{parent}/comm").read_text() == f"{seed.NAME}\n" else 0


def start(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


class Store:
    def __init__(self, program: list[str], directory: Path) -> None:
        self.program = program
        self.directory = directory
        self.refusal = ""
        self.said: list[str] = []

    @asynccontextmanager
    async def __call__(
        self, size: int = 48, *, program: list[str] | None = None, minimum: int = 16 * MEBIBYTE
    ) -> AsyncIterator[Subject]:
        """A process with so many MB."""
        with freezer() as cgroup:
            command = [*(program or self.program), *([str(size)] if size else [])]
            process = start(command)
            try:
                (cgroup.directory / "cgroup.procs").write_text(str(process.pid))
                async with trio.open_nursery() as nursery:
                    backend = StoreBackend(
                        self.directory,
                        cgroup,
                        nursery,
                        say=self.said.append,
                        reserve=lambda _: self.refusal,
                        minimum=minimum,
                    )
                    one = Subject(process, cgroup, backend)
                    try:
                        if size:
                            assert await one.answer() == "ready"
                        yield one
                    finally:
                        with trio.CancelScope(shield=True):
                            one.wake()
                            await backend.settle()
                            process.kill()
                            cgroup.thaw()
                            await backend.close()
                            await one.close()
                    nursery.cancel_scope.cancel()
            finally:
                process.kill()
                cgroup.thaw()
                process.communicate(timeout=10)


@pytest.fixture
def store(program: list[str], tmp_path: Path) -> Store:
    return Store(program, tmp_path / "store")


async def test_memory_is_gone_while_it_sleeps_and_right_when_it_is_asked_for(store: Store) -> None:
    async with store(100) as one:
        for command in ("p 3", "w 500", "d", "m", "z 1000", "f 100", "n 1000", "w 100"):
            await one.sleep()
            assert one.resident < 8 * MEBIBYTE
            assert one.backend.usage.out > 80 * MEBIBYTE
            one.wake()
            assert await one.ask("p 5") == "right"
            assert await one.ask(command) in ("right", "done")
        await one.sleep()
        one.wake()
        assert await one.ask("d") == "right"
        assert store.said == []


async def test_what_is_unchanged_is_not_written_again(store: Store) -> None:
    async with store(100) as one:
        await one.sleep()
        first = one.backend.usage.written
        assert first > 100 * MEBIBYTE
        for _ in range(3):
            one.wake()
            assert await one.ask("d") == "right"
            await one.sleep()
            assert one.backend.usage.written < first / 50
            assert one.resident < 8 * MEBIBYTE


async def test_scattered_writes_cost_as_much_as_they_change(store: Store) -> None:
    async with store(350) as one:
        await one.sleep()
        first = one.backend.usage.written
        assert first > 350 * MEBIBYTE
        for pages in (10_000, 100, 60_000, 100, 5_000, 0):
            one.wake()
            assert await one.ask(f"w {pages}") == "done"
            await one.sleep()
            assert one.backend.usage.written <= pages * PAGE + first / 50
            assert one.pieces > 10_000
            assert one.resident < 8 * MEBIBYTE
        one.wake()
        assert await one.ask("d") == "right"


async def test_what_is_not_touched_stays_out_while_it_is_awake(store: Store) -> None:
    async with store(100) as one:
        await one.sleep()
        one.wake()
        assert await one.ask("p 10") == "right"
        await trio.sleep(0.3)
        assert one.resident < 8 * MEBIBYTE
        usage = one.backend.usage
        assert 0 < usage.faults < 400
        assert usage.out > 90 * MEBIBYTE


async def test_a_request_waits_little_whenever_it_comes(store: Store, record_property: Callable[..., None]) -> None:
    size, tries = int(os.environ.get("STORE_SIZE", "100")), CYCLES * 3
    chance = random.Random(1)
    waits: list[float] = []
    async with store(size) as one:
        began = time.perf_counter()
        await one.sleep()
        whole = time.perf_counter() - began
        one.wake()

        async def request(delay: float) -> None:
            await trio.sleep(delay)
            asked = time.perf_counter()
            one.say("p 1")
            one.wake()
            assert await one.answer() == "right"
            waits.append(time.perf_counter() - asked)

        for number in range(tries):
            assert await one.ask(f"w {size * 256 // 2}" if number % 2 else "p 100") in ("done", "right")
            await one.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request, chance.uniform(0, whole * 1.1))
                await one.backend.move_out(one.cgroup.pids())
            await one.backend.settle()
            assert await one.ask("p 200") == "right"
        assert await one.ask("d") == "right"
    waits.sort()
    median, late = statistics.median(waits) * 1e3, waits[int(len(waits) * 0.99)] * 1e3
    record_property("waits_ms", [round(wait * 1e3, 2) for wait in waits])
    print(f"a move of {size} MB takes {whole * 1e3:.0f} ms; requests wait p50 {median:.2f} ms, p99 {late:.2f} ms")
    assert median < 25
    assert late < 250


@pytest.mark.parametrize("number", range(3))
async def test_killed_at_any_moment_the_pager_is_replaced_and_memory_is_right(store: Store, number: int) -> None:
    chance = random.Random(number)
    async with store(64) as one:
        await one.sleep()

        async def kill() -> None:
            await trio.sleep(chance.uniform(0, 0.08))
            with suppress(AssertionError, ProcessLookupError):
                os.kill(one.pager, signal.SIGKILL)

        for _ in range(CYCLES):
            one.wake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                for command in chance.choices(("p 50", "w 200", "z 20", "d", "n 100"), k=3):
                    assert await one.ask(command) in ("right", "done")
            await one.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                await one.backend.move_out(one.cgroup.pids())
        one.wake()
        assert await one.ask("d") == "right"
        assert len(store.said) > CYCLES / 2


async def test_killed_together_with_what_it_was_forked_from_the_pager_is_replaced(store: Store) -> None:
    chance = random.Random(1)
    async with store(64) as one:
        await one.sleep()
        forkers = set[int]()

        async def kill() -> None:
            await trio.sleep(chance.uniform(0, 0.08))
            with suppress(AssertionError, ProcessLookupError, FileNotFoundError):
                pager = one.pager
                if forker := forker_of(pager):
                    forkers.add(forker)
                    os.kill(forker, signal.SIGKILL)
                os.kill(pager, signal.SIGKILL)

        for _ in range(CYCLES):
            one.wake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                for command in chance.choices(("p 50", "w 200", "z 20", "d", "n 100"), k=3):
                    assert await one.ask(command) in ("right", "done")
            await one.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                await one.backend.move_out(one.cgroup.pids())
        one.wake()
        assert await one.ask("d") == "right"
        assert len(forkers) > CYCLES / 2


async def test_children_have_what_their_parent_had(store: Store) -> None:
    async with store(48) as one:
        await one.sleep()
        one.wake()
        child = await one.ask("k")
        assert await one.ask("w 1000") == "done"
        before = one.backend.usage.out
        await one.sleep()
        members = one.backend._holdings.members
        assert {member.pid for member in members} == {one.pid, int(child.split()[0])}
        assert one.backend.usage.out >= before
        one.wake()
        assert await one.ask("f 300") == "right"
        assert await one.ask(f"e {child}") == "right"
        for _ in range(30):
            assert await one.ask("f 10") == "right"
        await one.sleep()
        members = one.backend._holdings.members
        assert {member.pid for member in members} == {one.pid}
        one.wake()
        assert await one.ask("d") == "right"


async def test_a_child_born_before_the_first_sleep_is_one_of_them(store: Store) -> None:
    async with store(48) as one:
        child = await one.ask("k")
        for _ in range(3):
            await one.sleep()
            assert len(one.backend._holdings.members) == 2
            one.wake()
            assert await one.ask("w 100") == "done"
        assert await one.ask(f"e {child}") == "right"
        assert await one.ask("d") == "right"


async def test_brought_back_it_depends_on_nothing_of_ours(store: Store) -> None:
    async with store(48) as one:
        for _ in range(3):
            await one.sleep()
            one.wake()
            pager = one.pager
            await one.backend.bring_back()
            assert not alive(pager)
            assert mappings.registered(one.pid) == []
            assert one.resident > 48 * MEBIBYTE
            assert one.backend.usage.out == 0
            assert await one.ask("d") == "right"
            assert await one.ask("n 100") == "done"
        assert len([link for link in links(one.pid) if "userfaultfd" in link]) == 1


async def test_brought_back_while_it_is_frozen(store: Store) -> None:
    async with store(48) as one:
        await one.sleep()
        await one.backend.bring_back()
        assert one.cgroup.frozen()
        one.wake()
        assert await one.ask("d") == "right"


async def test_a_small_container_is_left_alone(store: Store) -> None:
    async with store(4) as one:
        await one.sleep()
        assert one.backend.usage.out == 0
        assert links(one.pid) == [link for link in links(one.pid) if "userfaultfd" not in link]
        one.wake()
        assert await one.ask("d") == "right"


async def test_without_room_on_the_disk_everything_stays(store: Store, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(full))
    try:
        store.directory = full / "store"
        async with store(48) as one:
            with pytest.raises(MemoryFailed, match="No space left"):
                await one.sleep()
            assert one.resident > 48 * MEBIBYTE
            assert list(store.directory.glob("pages-*")) == []
            one.wake()
            assert await one.ask("d") == "right"
            run("mount", "-o", "remount,size=60m", str(full))
            await one.sleep()
            assert one.resident < 8 * MEBIBYTE
            one.wake()
            assert await one.ask("w 10000") == "done"
            with pytest.raises(MemoryFailed, match="No space left"):
                await one.sleep()
            one.wake()
            assert await one.ask("d") == "right"
    finally:
        run("umount", "-l", str(full))


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=10)


async def test_a_refused_reservation_is_why_it_stays(store: Store) -> None:
    store.refusal = "max-checkpoint-bytes is 1"
    async with store(48) as one:
        with pytest.raises(MemoryFailed, match="max-checkpoint-bytes"):
            await one.sleep()
        one.wake()
        assert await one.ask("d") == "right"


def cut_short(file: Path) -> None:
    os.truncate(file, 5 * MEBIBYTE)


def written_to(file: Path) -> None:
    with file.open("r+b") as open_file:
        open_file.seek(MEBIBYTE)
        open_file.write(b"x" * 4096)


@pytest.mark.parametrize("damage", [cut_short, written_to])
async def test_a_damaged_store_is_lost_and_nothing_wrong_is_read(store: Store, damage: Callable[[Path], None]) -> None:
    async with store(48) as one:
        await one.sleep()
        for file in store.directory.glob("pages-*"):
            damage(file)
        one.say("d")
        one.wake()
        with trio.fail_after(15):
            assert "page" in await one.backend.lost()
        with trio.move_on_after(0.3) as scope:
            await one.answer()
        assert scope.cancelled_caught


async def test_a_deleted_store_is_served_on(store: Store) -> None:
    async with store(48) as one:
        await one.sleep()
        shutil.rmtree(store.directory)
        one.wake()
        assert await one.ask("d") == "right"


async def test_files_do_not_grow_for_ever(store: Store) -> None:
    async with store(48) as one:
        for _ in range(max(CYCLES, 8)):
            await one.sleep()
            one.wake()
            assert await one.ask("w 2500") == "done"
            await one.sleep()
            one.wake()
            assert await one.ask("p 20") == "right"
            taken = sum(file.stat().st_size for file in store.directory.glob("pages-*"))
            assert taken < 2.5 * 48 * MEBIBYTE + (8 * MEBIBYTE)
        assert await one.ask("d") == "right"


async def test_where_writes_are_not_tracked_memory_is_compared(store: Store) -> None:
    async with store(48) as one:
        one.backend._holdings.tracking = False
        for command in ("w 500", "z 100", "m", "f 50", "d"):
            await one.sleep()
            assert one.resident < 8 * MEBIBYTE
            one.wake()
            assert await one.ask(command) in ("right", "done")
        assert await one.ask("d") == "right"


async def test_a_move_that_is_cancelled_is_cut(store: Store) -> None:
    async with store(100) as one:
        for delay in (0.001, 0.02, 0.06):
            await one.freeze()
            with trio.move_on_after(delay):
                await one.backend.move_out(one.cgroup.pids())
            one.wake()
            assert await one.ask("d") == "right"


@pytest.mark.parametrize("killing", [False, True], ids=["alone", "pager killed"])
async def test_a_busy_program_never_sees_a_wrong_byte(store: Store, tmp_path: Path, killing: bool) -> None:
    """Threads that check their memory, with signals, forks and mappings that come, move and go. It ends when it is not
    right, or when a system call says what it should not."""
    program = compiled(STRESS, tmp_path, "-pthread")
    if program is None:
        pytest.skip("needs a compiler")
    chance = random.Random(killing)
    async with store(0, program=[str(program)]) as one:
        moved: list[float] = []
        killed = 0
        await trio.sleep(1)
        for cycle in range(CYCLES * 2):
            await one.freeze()
            began = time.perf_counter()
            async with trio.open_nursery() as nursery:
                if killing and chance.random() < 0.5:
                    nursery.start_soon(kill_soon, one, chance.uniform(0, 0.1))
                    killed += 1
                if chance.random() < 0.3:
                    nursery.start_soon(wake_soon, one, chance.uniform(0, 0.15))
                try:
                    await one.backend.move_out(one.cgroup.pids())
                except MemoryFailed:
                    if not killing:
                        raise
            if one.cgroup.frozen():
                moved.append(time.perf_counter() - began)
            await one.backend.fill()
            one.wake()
            await trio.sleep(chance.uniform(0, 0.3))
            if killing and chance.random() < 0.3:
                await kill_soon(one, 0)
            assert one.process.poll() is None, f"it ended with {one.process.returncode} in cycle {cycle}"
            if one.backend._lost:
                assert killing
                assert one.backend._lost.endswith("a process was forking")
                break
        if not one.backend._lost:
            await one.backend.bring_back()
            await trio.sleep(0.5)
            assert one.process.poll() is None
        print(
            f"{cycle + 1} sleeps, {len(moved)} whole ones of {statistics.median(moved) * 1e3:.0f} ms; {killed} killed;",
            len(store.said),
            one.backend._lost,
        )


async def kill_soon(one: Subject, delay: float) -> None:
    await trio.sleep(delay)
    with suppress(AssertionError, ProcessLookupError):
        os.kill(one.pager, signal.SIGKILL)


async def wake_soon(one: Subject, delay: float) -> None:
    await trio.sleep(delay)
    one.wake()


TRACER = """
import ctypes, os, signal, sys

PTRACE_TRACEME, PTRACE_CONT = 0, 7
libc = ctypes.CDLL(None)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
block = bytes([7]) * (32 << 20)
child = os.fork()
if child == 0:
    del block
    libc.ptrace(PTRACE_TRACEME, 0, None, None)
    os.execv(sys.argv[1], sys.argv[1:])
while True:
    _, status = os.waitpid(child, 0)
    if not os.WIFSTOPPED(status):
        sys.exit(0 if block.count(7) == len(block) else 3)
    number = os.WSTOPSIG(status)
    libc.ptrace(PTRACE_CONT, child, None, 0 if number == signal.SIGTRAP else number)
"""
"""Starts a program as its tracer, as a sanitizer's supervisor or a debugger does; ends with 0 if its own memory is
right when that has ended."""


async def test_only_a_traced_process_stays_in_memory(store: Store) -> None:
    tracer = [sys.executable, "-c", TRACER, shutil.which(store.program[0]) or "", *store.program[1:], "24"]
    async with store(0, program=tracer) as one:
        assert await one.answer() == "ready"
        (child,) = children(one.pid)
        with start([*store.program, "48"]) as process:
            (one.cgroup.directory / "cgroup.procs").write_text(str(child))
            (one.cgroup.directory / "cgroup.procs").write_text(str(process.pid))
            beside = Subject(process, one.cgroup, one.backend)
            try:
                assert await beside.answer() == "ready"
                for _ in range(3):
                    await one.sleep()
                    assert one.resident < 8 * MEBIBYTE
                    assert beside.resident < 8 * MEBIBYTE
                    assert mappings.Status.of(child).anonymous > 24 * MEBIBYTE
                    assert one.backend.left == {child: f"is traced by {one.pid}"}
                    assert one.backend.ran
                    one.wake()
                    for each in (one, beside):
                        assert await each.ask("w 100") == "done"
                        assert await each.ask("d") == "right"
                assert store.said == []
                # The tracer looks at its own memory then.
                await one.sleep()
                one.wake()
                os.kill(child, signal.SIGKILL)
                with trio.fail_after(ANSWER):
                    assert await trio.to_thread.run_sync(one.process.wait) == 0
            finally:
                one.wake()
                process.kill()
                await beside.close()


SHIM = """
import sys, trio
from pathlib import Path
from zeropod.runtime import cgroups
from zeropod.runtime.memory.store import StoreBackend

async def main():
    cgroup = cgroups.at({sys.argv[2]: sys.argv[3]})
    async with trio.open_nursery() as nursery:
        backend = StoreBackend(Path(sys.argv[1]), cgroup, nursery, say=print, reserve=lambda _: "")
        await cgroup.freeze(trio.current_time() + 5)
        await backend.move_out(cgroup.pids())
        cgroup.thaw()
        generation = backend._holdings.generation
        print(generation.pager.pid, generation.pager.journal.keeper, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


async def test_when_all_of_ours_is_dead_a_missing_page_waits(store: Store) -> None:
    async with store(48) as one:
        ((controller, directory),) = one.cgroup.paths.items()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        shim = subprocess.Popen(  # noqa: ASYNC220 - a millisecond
            [sys.executable, "-c", SHIM, str(store.directory) + "-2", controller, directory],
            stdout=subprocess.PIPE,
            env=environment,
        )
        assert shim.stdout
        with shim, trio.fail_after(20):
            line = await trio.to_thread.run_sync(shim.stdout.readline)
            pager, keeper = map(int, line.split())
            shim.kill()
        one.say("p 5")
        assert await one.answer() == "right"  # the pager serves on
        assert alive(pager)
        for pid in (pager, keeper):
            os.kill(pid, signal.SIGKILL)
        one.say("d")
        with trio.move_on_after(1) as scope:
            await one.answer()
        assert scope.cancelled_caught


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def links(pid: int) -> list[str]:
    """What a process has open."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
