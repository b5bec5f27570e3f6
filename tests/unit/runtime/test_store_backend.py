"""What the page store says where something fails. What it does with real memory is tested with real processes."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.concurrency import GuardedNursery
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory import store
from zeropod.runtime.memory.backend import Kind, MemoryFailed, MemoryLost, Usage, bring_back_within
from zeropod.runtime.memory.store import LOOK, StoreBackend
from zeropod.runtime.memory.userfault import cold, holdings
from zeropod.runtime.memory.userfault.eviction import Eviction
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.memory.userfault.freezer import FROZEN_WITHIN, Cut, Freezer
from zeropod.runtime.memory.userfault.holdings import STARTS, Holdings, Member
from zeropod.runtime.memory.userfault.store import PageStore
from zeropod.runtime.pager import PagerLost

MEBIBYTE = 1 << 20


class Cgroup:
    def __init__(self) -> None:
        self.is_frozen = True
        self.paths = {"": "/nowhere"}

    def frozen(self) -> bool:
        return self.is_frozen

    def pids(self) -> list[int]:
        return []

    def thaw(self) -> None:
        self.is_frozen = False


class FakeEviction:
    """A move that does what a test says, in its own thread."""

    script: list[Callable[[], object]]

    def __init__(self, *_: object, **__: object) -> None:
        self.written, self.left, self.ran = 7, {4: "is traced by 3"}, True

    def run(self) -> None:
        FakeEviction.script[0]()


class FakePager:
    def __init__(self) -> None:
        self.ended = False
        self.drains = 0
        self.killed = 0
        self.is_damaged = ""
        self.fault = ""
        self.all_in = trio.Event()
        self.guards: dict[int, int] = {}
        self.journal = SimpleNamespace(faults=3, pages_brought=2, event_count=0, unrecorded=list)
        self.retires = True
        self.taken: dict[int, int] = {}
        self.calls: list[str] = []

    def learnt(self) -> tuple[()]:
        return ()

    def abandon(self) -> None:
        self.calls.append("abandon")

    def begin(self) -> None:
        self.calls.append("begin")

    def drain(self) -> None:
        self.drains += 1

    async def drained(self) -> None:
        await self.all_in.wait()

    def damage(self) -> str:
        return self.is_damaged

    def retire(self, _: float) -> bool:
        return self.retires

    def doubt(self) -> str:
        return self.fault

    def take_guards(self) -> dict[int, int]:
        return self.taken

    def close(self) -> None:
        pass

    async def kill(self) -> None:
        self.killed += 1
        self.ended = True
        await trio.lowlevel.checkpoint()

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()
        raise PagerLost("the pager died 6 times")


def generation(pager: FakePager, out: int = 100 * MEBIBYTE) -> Any:
    spaces = SimpleNamespace(all=[], catch_up=lambda: None, happen=lambda _: None)
    return SimpleNamespace(
        pager=pager, pages_out=out // PAGE, members=[], spaces=spaces, progress=(0, 0, 0), space=lambda _: None
    )


class Backend:
    """A store whose moves are a script's."""

    def __init__(self, nursery: trio.Nursery, directory: Path) -> None:
        self.tasks = GuardedNursery(nursery)
        self.cgroup = Cgroup()
        cgroup: Any = self.cgroup
        self.store = StoreBackend(directory, cgroup, self.tasks, say=print, reserve=lambda _: "")
        self.pager = FakePager()

    def moves(self, script: Callable[[], object]) -> None:
        FakeEviction.script = [script]

    def has_out(self) -> None:
        self.store._holdings.generation = generation(self.pager)

    def has_a_pager(self) -> None:
        pager: Any = self.pager
        self.store._started(pager)

    async def loses(self, why: str) -> None:
        self.moves(raising(MemoryLost(why)))
        with pytest.raises(MemoryLost, match=why):
            await self.store.move_out([4])


def raising(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@pytest.fixture
def backend(nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(store, "Eviction", FakeEviction)
    return Backend(nursery, tmp_path / "store")


# A move


async def test_what_a_move_has_done_is_kept(backend: Backend) -> None:
    backend.moves(lambda: None)
    await backend.store.move_out([4])
    assert (backend.store.kind, backend.store.usage) == (Kind.STORE, Usage(written=7))
    assert (backend.store.left, backend.store.ran) == ({4: "is traced by 3"}, True)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device"), "cannot be moved out: .*No space left"),
        (MemoryFailed("max-checkpoint-bytes is 1"), "max-checkpoint-bytes"),
    ],
)
async def test_memory_that_cannot_be_moved_stays_and_the_next_move_is_tried(
    backend: Backend, error: Exception, says: str
) -> None:
    backend.moves(raising(error))
    with pytest.raises(MemoryFailed, match=says):
        await backend.store.move_out([4])
    backend.moves(lambda: None)
    await backend.store.move_out([4])
    await backend.store.settle()
    assert backend.tasks.failure is None


async def test_a_cut_is_no_failure(backend: Backend) -> None:
    backend.moves(raising(Cut()))
    await backend.store.move_out([4])


async def test_a_defect_is_told_to_the_controller_and_nothing_waits_for_ever(backend: Backend) -> None:
    backend.moves(raising(ValueError("a defect")))
    await backend.store.move_out([4])
    assert isinstance(await backend.tasks.failed(), ValueError)
    await backend.store.settle()


async def test_two_moves_at_once_are_refused(backend: Backend, nursery: trio.Nursery) -> None:
    go_on = threading.Event()
    backend.moves(lambda: go_on.wait(10))
    nursery.start_soon(backend.store.move_out, [4])
    await wait_all_tasks_blocked()
    with pytest.raises(MemoryFailed, match="is being moved already"):
        await backend.store.move_out([4])
    go_on.set()
    await backend.store.settle()


async def test_a_closed_store_moves_nothing(backend: Backend) -> None:
    await backend.store.close()
    with pytest.raises(MemoryFailed, match="closed"):
        await backend.store.move_out([4])


# Lost


async def test_what_is_lost_is_told_by_everything_that_needs_it(backend: Backend) -> None:
    await backend.loses("no pager can be started")
    assert await backend.store.lost() == "no pager can be started"
    for attempt in (backend.store.move_out([4]), backend.store.bring_back(), backend.store.leave([4])):
        with pytest.raises(MemoryLost, match="no pager can be started"):
            await attempt


async def test_files_that_were_changed_are_noticed_without_a_fault(backend: Backend, autojump_clock: MockClock) -> None:
    backend.has_out()

    async def damage() -> None:
        await trio.sleep(10 * LOOK)
        backend.pager.is_damaged = "page 3 was written to"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(damage)
        assert await backend.store.lost() == "page 3 was written to"
    assert 10 * LOOK <= trio.current_time() <= 11 * LOOK


async def test_a_pager_that_cannot_be_replaced_is_a_loss(backend: Backend) -> None:
    backend.has_a_pager()
    assert await backend.store.lost() == "the pager died 6 times"


async def test_a_pager_that_dies_after_the_end_is_none(backend: Backend) -> None:
    await backend.store.close()
    backend.has_a_pager()
    with trio.move_on_after(0.05) as scope:
        await backend.store.lost()
    assert scope.cancelled_caught


# Bringing back


async def test_what_does_not_come_back_in_time_is_lost_with_the_figures(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.has_out()
    seconds = bring_back_within(100 * MEBIBYTE)
    with pytest.raises(MemoryLost, match=f"within {seconds:.0f} s: of 100 MiB 100 are still out"):
        await backend.store.bring_back()
    assert trio.current_time() == pytest.approx(seconds)
    assert backend.pager.killed == 0, "what is there already is served on"


async def test_what_is_found_to_be_damaged_as_it_comes_back_is_lost(
    backend: Backend, autojump_clock: MockClock
) -> None:
    backend.has_out()
    backend.pager.is_damaged = "the file was cut short"
    with pytest.raises(MemoryLost, match="the file was cut short"):
        await backend.store.bring_back()


async def test_nothing_is_left_of_a_pager_that_has_brought_everything(backend: Backend) -> None:
    backend.has_out()
    backend.pager.all_in.set()
    backend.cgroup.is_frozen = False
    await backend.store.bring_back()
    assert (backend.pager.drains, backend.pager.killed) == (1, 1)
    assert backend.store.usage.out == 0
    await backend.store.bring_back()
    assert backend.pager.drains == 1


# COLD


async def test_of_what_is_all_in_nothing_is_left_out(backend: Backend) -> None:
    assert await backend.store.leave([4]) is None


async def test_processes_that_cannot_be_made_ready_for_a_dump_say_so(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.has_out()
    monkeypatch.setattr(store, "leave", lambda *_: raising(OSError("Input/output error"))())
    with pytest.raises(MemoryFailed, match="cannot be made ready for a dump: Input/output error"):
        await backend.store.leave([4])


async def test_a_dump_that_is_cut_leaves_nothing_out(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.has_out()
    monkeypatch.setattr(store, "leave", lambda *_: raising(Cut())())
    assert await backend.store.leave([4]) is None


@pytest.mark.parametrize(
    ("error", "raises"),
    [(OSError("Input/output error"), MemoryFailed), (MemoryLost("processes 3 were not restored"), MemoryLost)],
)
async def test_restored_processes_that_cannot_have_their_memory_say_so(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, error: Exception, raises: type[Exception]
) -> None:
    backend.has_out()
    monkeypatch.setattr(store, "leave", lambda *_: {})
    left_out = await backend.store.leave([4])
    assert left_out is not None
    await left_out.processes_ended()
    assert (backend.pager.killed, backend.store.usage.out) == (1, 0)
    monkeypatch.setattr(cold, "rejoin", lambda *_: raising(error)())
    with pytest.raises(raises, match=str(error)):
        await left_out.rejoin([4])


# The next generation


class Pagers:
    """Makes pagers, as long as there is memory for them."""

    def __init__(self) -> None:
        self.made: list[FakePager] = []
        self.tries = 0
        self.room = 100

    def __call__(self, *_: object, **__: object) -> FakePager:
        self.tries += 1
        if len(self.made) >= self.room:
            raise OSError(12, "Cannot allocate memory")
        self.made.append(FakePager())
        return self.made[-1]


@pytest.fixture
def pagers(monkeypatch: pytest.MonkeyPatch) -> Pagers:
    made = Pagers()
    monkeypatch.setattr(holdings, "Pager", made)
    return made


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Holdings]:
    made = Holdings(PageStore(tmp_path / "pages"), lambda _: None, lambda _: None)
    made.generation = generation(FakePager())
    yield made
    made.close()


def member() -> Member:
    return Member(os.getpid(), os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def is_open(descriptor: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{descriptor}")


def pager_of(held: Holdings) -> Any:
    assert held.generation
    return held.generation.pager


async def test_the_next_pager_goes_on_where_the_last_one_has_ended(held: Holdings, pagers: Pagers) -> None:
    new = member()
    assert held.replace([new])
    assert (pager_of(held), pagers.made[0].calls) == (pagers.made[0], ["begin"])
    assert held.members == [new]
    new.close()


@pytest.mark.parametrize("first", [True, False])
async def test_without_memory_for_a_pager_everything_stays_as_it_is(
    held: Holdings, pagers: Pagers, first: bool
) -> None:
    if first:
        held.generation = None
    before, new, pagers.room = held.generation, member(), 0
    with pytest.raises(MemoryFailed, match=r"no pager can be started: .*Cannot allocate memory"):
        held.replace([new])
    assert (held.generation, pagers.tries) == (before, STARTS)
    assert not is_open(new.uffd)


async def test_a_pager_that_does_not_end_stays_and_what_is_new_is_let_go_of(held: Holdings, pagers: Pagers) -> None:
    before, new = held.generation, member()
    pager_of(held).retires = False
    with pytest.raises(MemoryFailed, match="does not end when it is told to"):
        held.replace([new])
    assert (held.generation, pagers.made[0].calls) == (before, ["abandon"])
    assert not is_open(new.uffd)


async def test_a_pager_that_died_in_the_middle_of_something_is_a_loss(held: Holdings, pagers: Pagers) -> None:
    pager_of(held).fault = "a process was forking"
    with pytest.raises(MemoryLost, match="the pager died, and a process was forking"):
        held.replace()
    assert pagers.made[0].calls == ["abandon"]


async def test_without_another_pager_the_descriptors_stay_so_that_missing_pages_wait(
    held: Holdings, pagers: Pagers
) -> None:
    """The container was thawed meanwhile, so the pager that was made beforehand is of no use, and there is no other."""
    pager_of(held).taken = {0: os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)}
    before, new, pagers.room = held.generation, member(), 1
    with pytest.raises(MemoryLost, match=r"no pager can be started: .*Cannot allocate memory"):
        held.replace([new], as_of=pager_of(held).journal.event_count - 1)
    assert (held.generation, pagers.made[0].calls) == (before, ["abandon"])
    assert not is_open(new.uffd), "nothing of it is out yet"
    [guard] = pager_of(held).taken.values()
    assert is_open(guard)
    os.close(guard)


@pytest.mark.parametrize("step", ["doubt", "catch_up", "happen", "unrecorded", "begin"])
@pytest.mark.parametrize("error", [ValueError("a defect"), OSError(5, "Input/output error")])
async def test_an_error_after_the_last_pager_has_ended_is_a_loss_and_leaves_no_pager_that_waits(
    held: Holdings, pagers: Pagers, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    """Nothing would serve page faults, and the container would be thawed as after any other defect."""
    assert held.generation
    spaces: Any = held.generation.spaces
    pager, before, new, retired = pager_of(held), held.generation, member(), threading.Event()

    def retire(_: float) -> bool:
        retired.set()
        return True

    pager.retire = retire

    def fail(*_: object) -> None:
        if retired.is_set():
            raise error

    places = {"doubt": pager, "unrecorded": pager.journal, "begin": FakePager}
    monkeypatch.setattr(places.get(step, spaces), step, fail)
    with pytest.raises(MemoryLost, match=str(error.args[-1])):
        held.replace([new])
    assert held.generation == before
    assert pagers.made[0].calls == ["abandon"]
    assert not is_open(new.uffd)


# The steps of a move


def freezer_of(cgroup: Cgroup) -> Freezer:
    made: Any = cgroup
    return Freezer(made)


async def test_processes_that_do_not_freeze_again_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = Cgroup()
    cgroup.is_frozen = False
    clock = iter([0.0, FROZEN_WITHIN / 2, FROZEN_WITHIN + 1.0])
    monkeypatch.setattr("zeropod.runtime.memory.userfault.freezer.time.monotonic", lambda: next(clock))
    with pytest.raises(MemoryFailed, match="do not freeze again"):
        freezer_of(cgroup).wait_frozen()


def one_move(held: Holdings, pids: Sequence[int] = ()) -> Eviction:
    return Eviction(held, freezer_of(Cgroup()), pids, lambda _: "", 0)


class Changed:
    """A move, as far as what it stores; one page of one process is to be written."""

    def __init__(self, held: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.move = one_move(held)
        self.member = member()
        self.member.number = 0
        monkeypatch.setattr(Eviction, "_protect", lambda *_: [(0, PAGE)])
        monkeypatch.setattr(Eviction, "_copied", lambda *_: Index())

    def store(self) -> None:
        try:
            self.move._store([self.member])
        finally:
            self.member.close()


async def test_nothing_more_is_written_to_a_damaged_store(held: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held.store, "damage", lambda: "pages-1 was written to")
    with pytest.raises(MemoryFailed, match="pages-1 was written to"):
        Changed(held, monkeypatch).store()


async def test_a_store_whose_directory_has_gone_says_so(held: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    held.store.directory.rmdir()
    with pytest.raises(MemoryFailed, match=r"the page store cannot be written: .*No such file"):
        Changed(held, monkeypatch).store()


async def test_a_write_that_fails_leaves_no_file(held: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Eviction, "_save", lambda *_: raising(OSError(5, "Input/output error"))())
    with pytest.raises(MemoryFailed, match="the page store cannot be written: Input/output error"):
        Changed(held, monkeypatch).store()
    assert list(held.store.directory.iterdir()) == []


async def test_a_file_that_was_cut_short_is_not_copied_from(held: Holdings, monkeypatch: pytest.MonkeyPatch) -> None:
    old = held.store.begin()
    old.append(bytes(PAGE))
    held.store.add(old)
    os.truncate(held.store.directory / "pages-1", 100)
    extent = Extent(0, PAGE, 1, 0, bytes([0]))
    new = held.store.begin()
    with pytest.raises(MemoryFailed, match="a file of the page store was cut short"):
        one_move(held)._copy([extent], new)
    new.abandon()


@pytest.mark.parametrize(
    ("answers", "raises"), [([False, True], MemoryFailed), ([True, False], MemoryLost), ([False, False], MemoryLost)]
)
async def test_a_pager_that_does_not_answer_is_a_failure_before_the_drop_and_a_loss_behind_it(
    held: Holdings, answers: list[bool], raises: type[Exception]
) -> None:
    """Behind it, it would take what the application discards for ours."""
    left = iter(answers)
    pager_of(held).move = lambda *_, **__: next(left)
    with pytest.raises(raises, match="the pager does not answer"):
        one_move(held)._drop([])
