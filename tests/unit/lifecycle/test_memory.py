"""Where the memory of a container in STANDBY goes: the move in the background, and which backend does it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod import paths
from zeropod.concurrency import GuardedNursery
from zeropod.lifecycle.machine import Life
from zeropod.lifecycle.metrics import ContainerMetrics
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.standby import memory as standby
from zeropod.lifecycle.standby.memory import GROWN, StandbyMemory
from zeropod.runtime import budget
from zeropod.runtime.memory import backends, choice
from zeropod.runtime.memory.backend import Kind, MemoryFailed, MemoryLost, Usage

MEBIBYTE = 1 << 20


class FakeBackend:
    """Moves everything out at once, unless a test says otherwise."""

    descriptors: frozenset[tuple[int, int]] = frozenset()
    left: Mapping[int, str] = {}
    ran = False

    def __init__(self, node: "Node", kind: Kind) -> None:
        self.node = node
        self.kind = kind
        self.usage = Usage()
        self.working = 0
        self.cuts = 0
        self.closed = False
        self.left_out: LeftOut | None = None

    async def leave(self, pids: Sequence[int]) -> "LeftOut | None":
        assert list(pids) == [4, 5]
        self.node.calls.append("leave")
        await trio.lowlevel.checkpoint()
        return self.left_out

    async def move_out(self, pids: Sequence[int]) -> None:
        assert not self.closed
        assert list(pids) == [4, 5]
        assert self.working == 0, "one at a time"
        self.node.calls.append("move out")
        self.working += 1
        try:
            await self.node.moving()
        except trio.Cancelled:
            # What is in hand is finished or undone.
            with trio.CancelScope(shield=True):
                await trio.sleep(0.005)
            raise
        finally:
            self.working -= 1
        self.usage = Usage(out=self.node.resident, written=self.node.resident)
        self.node.resident = 0

    def cut(self) -> None:
        self.cuts += 1

    def woke(self) -> None:
        self.node.calls.append("woke")

    async def settle(self) -> None:
        await trio.lowlevel.checkpoint()

    async def fill(self) -> None:
        self.node.calls.append("fill")
        await trio.lowlevel.checkpoint()

    async def bring_back(self) -> None:
        assert self.working == 0
        self.node.calls.append("bring back")
        await trio.lowlevel.checkpoint()
        if self.node.is_lost:
            raise MemoryLost("its pager died")
        self.node.resident += self.usage.out
        self.usage = Usage()

    async def lost(self) -> str:
        await self.node.lost.wait()
        return "its pager died"

    async def close(self) -> None:
        self.node.calls.append(f"close {self.kind}")
        await trio.lowlevel.checkpoint()
        assert not self.usage.out, "pages that are out would be lost"
        self.closed = True


class Node:
    """The container's memory, and what the node has for it."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.resident = 100 * MEBIBYTE
        self.chosen = Kind.STORE
        self.made: list[FakeBackend] = []
        self.moving: Callable[[], Any] = trio.lowlevel.checkpoint
        self.lost = trio.Event()
        self.is_lost = False
        self.slots = 1
        self.told = 0

    def choose(self, wanted: str, _: object, present: int, *, for_a_dump: bool) -> tuple[Kind, str]:
        assert present == self.resident
        if for_a_dump and self.chosen is Kind.SWAP:
            return Kind.STORE, "chosen for a dump"
        return (self.chosen if wanted == "auto" else Kind(wanted)), f"chosen for {wanted}"

    def make(self, kind: Kind, *_: object, **__: object) -> FakeBackend:
        self.made.append(FakeBackend(self, kind))
        return self.made[-1]


class AdmissionSlots:
    node: Node

    def try_acquire(self) -> "AdmissionSlot | None":
        if not self.node.slots:
            return None
        self.node.slots -= 1
        return AdmissionSlot()

    async def wait_free(self) -> None:
        await trio.sleep(1.0)


class AdmissionSlot:
    def release(self) -> None:
        AdmissionSlots.node.slots += 1


async def inline(function: Callable[[], object], **_: object) -> object:
    await trio.lowlevel.checkpoint()
    return function()


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    made = AdmissionSlots.node = Node()
    monkeypatch.setattr(standby, "AdmissionSlots", AdmissionSlots)
    monkeypatch.setattr(choice, "facts", lambda: None)
    monkeypatch.setattr(choice, "choose", made.choose)
    monkeypatch.setattr(backends, "make", made.make)
    monkeypatch.setattr(paths, "make_private", lambda _: None)
    monkeypatch.setattr(paths, "store", lambda *_: Path("/nowhere"))
    monkeypatch.setattr(budget, "release", lambda _: made.calls.append("release"))
    # A thread takes time of which virtual time knows nothing.
    monkeypatch.setattr(trio.to_thread, "run_sync", inline)
    return made


class Container:
    """Its memory, and what there is of it besides."""

    def __init__(self, node: Node, nursery: trio.Nursery, wanted: str = "auto") -> None:
        self.node = node
        self.life = Life()
        self.metrics = ContainerMetrics()
        self.tasks = GuardedNursery(nursery)
        self.init_process: Any = SimpleNamespace(
            cgroup=SimpleNamespace(resident_bytes=lambda: node.resident), pids=lambda: [4, 5]
        )
        workload: Any = SimpleNamespace(
            id="web",
            runc=SimpleNamespace(namespace="k8s.io"),
            settings=Settings(standby_memory=wanted),
            life=self.life,
            metrics=self.metrics,
            log=logging.LoggerAdapter(logging.getLogger("memory"), {}),
        )
        self.memory = StandbyMemory(workload, self.tasks)

    async def sleeps(self) -> None:
        self.memory.begin(self.init_process)
        with trio.fail_after(100.0):
            await self.memory.moved()

    @property
    def backend(self) -> FakeBackend:
        return self.node.made[-1]

    @property
    def moves(self) -> int:
        return self.node.calls.count("move out")


@pytest.fixture
def container(node: Node, nursery: trio.Nursery) -> Container:
    return Container(node, nursery)


async def test_nothing_is_said_before_the_first_move(container: Container) -> None:
    assert container.memory.report(container.init_process) is None
    assert container.memory.kind is Kind.RESIDENT
    await container.memory.bring_back()


async def test_memory_is_moved_out_in_the_background_and_then_what_is_needed_first_brought_in(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    node.moving = partial(trio.sleep, 3.0)
    container.memory.begin(container.init_process)
    assert (container.memory.moves, node.calls) == (True, [])
    await trio.sleep(1.0)
    report = container.memory.report(container.init_process)
    assert report is not None
    assert report.moving
    await container.memory.moved()
    assert node.calls == ["move out", "fill", "release"]
    assert node.slots == 1
    report = container.memory.report(container.init_process)
    assert report is not None
    assert (report.kind, str(report.why), report.moving) == (Kind.STORE, "chosen for auto", False)
    assert (report.usage.out, report.left) == (100 * MEBIBYTE, 0)
    assert container.metrics.memory_written_bytes_total == 100 * MEBIBYTE


@pytest.mark.parametrize("kind", list(Kind))
async def test_the_annotation_chooses_the_backend(node: Node, nursery: trio.Nursery, kind: Kind) -> None:
    container = Container(node, nursery, kind)
    await container.sleeps()
    assert (container.memory.kind, str(container.memory.why)) == (kind, f"chosen for {kind}")


async def test_that_a_move_has_ended_is_told(container: Container) -> None:
    told: list[bool] = []
    container.life.tell = lambda: told.append(container.memory.moves)
    await container.sleeps()
    assert told[-1] is False


# Leaving


async def test_what_leaves_has_its_memory_in_files_and_not_in_this_nodes_swap(container: Container, node: Node) -> None:
    node.chosen = Kind.SWAP
    await container.sleeps()
    swap = container.backend
    node.resident = 100 * MEBIBYTE
    await container.memory.to_files(container.init_process)
    assert container.memory.kind is Kind.STORE
    assert swap.closed
    assert "bring back" in node.calls


async def test_what_is_in_files_already_is_moved_once_more_and_only_once(container: Container) -> None:
    await container.sleeps()
    await container.memory.to_files(container.init_process)
    assert (container.moves, len(container.node.made)) == (2, 1)
    await container.memory.to_files(container.init_process)
    assert container.moves == 2
    container.memory.stays()
    await container.memory.to_files(container.init_process)
    assert container.moves == 3


# Cut


async def test_a_thaw_cuts_the_move_at_once(container: Container, node: Node, autojump_clock: MockClock) -> None:
    node.moving = trio.sleep_forever
    container.memory.begin(container.init_process)
    await trio.sleep(1.0)
    before = trio.current_time()
    container.memory.cut()
    assert trio.current_time() == before
    assert container.backend.cuts == 1
    await container.memory.moved()
    assert trio.current_time() - before < 0.01
    assert node.slots == 1
    assert node.calls == ["move out", "release"], "nothing is filled in: it runs"
    assert container.tasks.failure is None
    node.moving = trio.lowlevel.checkpoint
    await container.sleeps()
    assert container.moves == 2, "the next sleep moves what has stayed"


async def test_one_that_waits_for_its_turn_can_be_cut(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    node.slots = 0
    container.memory.begin(container.init_process)
    await trio.sleep(100.0)
    container.memory.cut()
    await container.memory.moved()
    assert (node.calls, node.slots) == ([], 0)


async def test_it_waits_for_its_turn(container: Container, node: Node, autojump_clock: MockClock) -> None:
    node.slots = 0
    container.memory.begin(container.init_process)
    await trio.sleep(10.0)
    assert node.calls == []
    node.slots = 1
    await container.memory.moved()
    assert container.moves == 1


async def test_a_cut_without_a_move_does_nothing(container: Container) -> None:
    container.memory.cut()
    await container.sleeps()
    container.memory.cut()
    container.memory.cut()
    assert container.moves == 1
    assert not container.memory.moves


async def test_a_move_begins_only_when_the_one_that_was_cut_has_ended(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    """Otherwise two of them would be at the same processes; the fake says so."""
    node.moving = trio.sleep_forever
    container.memory.begin(container.init_process)
    await trio.sleep(1.0)
    for _ in range(3):
        container.memory.cut()
        container.memory.begin(container.init_process)
    node.moving = trio.lowlevel.checkpoint
    await container.memory.moved()
    assert container.tasks.failure is None
    assert container.backend.usage.out
    assert container.moves == 2, "those between were cut before they had begun"
    assert node.slots == 1


# Naps


@pytest.mark.parametrize(("back", "moves"), [(0, 1), (GROWN - 2, 1), (GROWN + MEBIBYTE, 2)])
async def test_after_a_nap_memory_is_moved_again_only_if_much_has_come_back(
    container: Container, node: Node, back: int, moves: int
) -> None:
    await container.sleeps()
    container.memory.cut()
    node.resident += back
    await container.sleeps()
    assert container.moves == moves


async def test_after_a_wake_it_is_moved_in_any_case(container: Container) -> None:
    await container.sleeps()
    container.memory.cut()
    container.memory.woke()
    await container.sleeps()
    assert container.moves == 2


# What a move could not stop


async def test_that_something_has_run_during_a_move_is_told_once(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    await container.sleeps()
    container.backend.ran = True
    node.moving = partial(trio.sleep, 3.0)
    for _ in range(2):
        container.memory.woke()
        began = trio.current_time()
        container.memory.begin(container.init_process)
        assert await container.memory.ran() == began
        with trio.move_on_after(5.0) as scope:
            await container.memory.ran()
        assert scope.cancelled_caught


async def test_after_a_thaw_it_does_not_matter_what_ran(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    await container.sleeps()
    container.backend.ran = True
    container.memory.woke()
    await container.sleeps()
    container.memory.cut()
    node.moving = trio.sleep_forever
    container.memory.woke()
    container.memory.begin(container.init_process)
    await trio.sleep(1.0)
    container.memory.cut()
    await container.memory.moved()
    with trio.move_on_after(5.0) as scope:
        await container.memory.ran()
    assert scope.cancelled_caught


async def test_which_processes_stay_is_said(container: Container) -> None:
    await container.sleeps()
    container.backend.left = {7: "is traced by 6"}
    container.memory.woke()
    await container.sleeps()
    assert str(container.memory.why) == "chosen for auto; process 7 stays in memory: it is traced by 6"


# COLD


class LeftOut:
    def __init__(self, node: Node) -> None:
        self.node = node

    async def processes_ended(self) -> None:
        self.node.calls.append("processes ended")
        await trio.lowlevel.checkpoint()

    async def rejoin(self, pids: Sequence[int]) -> None:
        self.node.calls.append(f"rejoin {pids}")
        await trio.lowlevel.checkpoint()


async def test_what_the_image_leaves_out_stays_with_the_backend_and_is_given_back(
    container: Container, node: Node
) -> None:
    await container.sleeps()
    container.backend.left_out = LeftOut(node)
    node.calls.clear()
    assert await container.memory.leave(container.init_process)
    await container.memory.ended()
    await container.memory.rejoin(container.init_process)
    assert node.calls == ["leave", "processes ended", "rejoin [4, 5]"]
    assert container.memory.kind is Kind.STORE


async def test_a_backend_of_which_the_image_leaves_nothing_out_is_let_go_of(container: Container, node: Node) -> None:
    assert not await container.memory.leave(container.init_process), "there is none yet"
    await container.sleeps()
    container.backend.left_out = LeftOut(node)
    assert await container.memory.leave(container.init_process)
    container.backend.left_out = None
    assert not await container.memory.leave(container.init_process), "the dump before has failed"
    await container.memory.bring_back()
    await container.memory.ended()
    assert node.calls[-1] == "close store"


# What goes wrong


@pytest.mark.parametrize("error", [MemoryFailed("no room"), OSError("no room")])
async def test_memory_that_cannot_be_moved_stays_and_that_is_said(
    container: Container, node: Node, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise error

    node.moving = fail
    await container.sleeps()
    report = container.memory.report(container.init_process)
    assert report is not None
    assert (str(report.why), report.left) == ("its memory stays: no room", 100 * MEBIBYTE)
    assert "in STANDBY, but its memory stays: no room" in caplog.text
    assert container.tasks.failure is None, "it sleeps on"
    assert (node.slots, node.calls) == (1, ["move out", "release"])
    node.moving = trio.lowlevel.checkpoint
    await container.sleeps()
    assert (str(container.memory.why), container.moves) == ("chosen for auto", 2)


async def test_anything_else_is_told_to_the_controller(container: Container, node: Node) -> None:
    async def fail() -> None:
        raise ValueError("a defect")

    node.moving = fail
    container.memory.begin(container.init_process)
    assert isinstance(await container.tasks.failed(), ValueError)
    await container.memory.moved()
    assert node.slots == 1


async def test_pages_that_cannot_be_had_any_more_are_told(
    container: Container, node: Node, nursery: trio.Nursery
) -> None:
    found: list[str] = []

    async def watch() -> None:
        found.append(await container.memory.lost())

    nursery.start_soon(watch)
    await wait_all_tasks_blocked()
    await container.sleeps()
    await wait_all_tasks_blocked()
    assert found == []
    node.lost.set()
    await wait_all_tasks_blocked()
    assert found == ["its pager died"]


async def test_bringing_back_waits_for_the_end_of_a_move(
    container: Container, node: Node, autojump_clock: MockClock
) -> None:
    node.moving = partial(trio.sleep, 3.0)
    container.memory.begin(container.init_process)
    await container.memory.bring_back()
    assert node.calls == ["move out", "fill", "release", "bring back"]
    assert node.resident == 100 * MEBIBYTE


async def test_memory_that_cannot_be_brought_back_is_lost(container: Container, node: Node) -> None:
    await container.sleeps()
    node.is_lost = True
    with pytest.raises(MemoryLost):
        await container.memory.bring_back()


# The backend


async def test_a_backend_stays_while_it_has_pages_out(container: Container, node: Node) -> None:
    await container.sleeps()
    node.chosen, node.resident = Kind.SWAP, GROWN * 2
    container.memory.woke()
    await container.sleeps()
    assert [backend.kind for backend in node.made] == [Kind.STORE]


async def test_another_one_is_chosen_once_everything_is_back(container: Container, node: Node) -> None:
    await container.sleeps()
    await container.memory.bring_back()
    node.chosen = Kind.SWAP
    container.memory.woke()
    await container.sleeps()
    assert [(backend.kind, backend.closed) for backend in node.made] == [(Kind.STORE, True), (Kind.SWAP, False)]
    assert container.memory.kind is Kind.SWAP


async def test_the_same_one_is_kept_when_it_is_chosen_again(container: Container, node: Node) -> None:
    for _ in range(2):
        await container.sleeps()
        await container.memory.bring_back()
        container.memory.woke()
    assert len(node.made) == 1


async def test_after_the_end_there_is_none(container: Container, node: Node) -> None:
    await container.sleeps()
    await container.memory.bring_back()
    await container.memory.close()
    await container.memory.close()
    assert (container.backend.closed, node.calls.count("close store")) == (True, 1)
    assert container.memory.report(container.init_process) is None


async def test_faults_are_counted_once_however_often_they_are_looked_at(container: Container) -> None:
    await container.sleeps()
    for faults, total in ((3, 3), (3, 3), (7, 7), (2, 9)):  # a backend begins at 0 again with a move
        container.backend.usage = Usage(out=1, faults=faults)
        container.memory.report(container.init_process)
        assert container.metrics.memory_faults_total == total
