"""What is said of the memory of a container in STANDBY, and counted."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from tests.unit.shim.fakes import World

from zeropod.lifecycle.standby.memory import StandbyMemory
from zeropod.runtime.memory import backends, choice
from zeropod.runtime.memory.backend import Kind, MemoryFailed, Usage
from zeropod.runtime.memory.backends import ResidentBackend
from zeropod.runtime.memory.choice import NodeFacts


class Backend(ResidentBackend):
    """A page store in which the test says what has happened."""

    def __init__(self) -> None:
        self.state = Usage()
        self.failure = ""

    @property
    def kind(self) -> Kind:
        return Kind.STORE

    @property
    def usage(self) -> Usage:
        return self.state

    async def move_out(self, pids: Sequence[int]) -> None:
        await trio.lowlevel.checkpoint()
        self.state = Usage(out=100, written=40)
        if self.failure:
            raise MemoryFailed(self.failure)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    made = Backend()
    monkeypatch.setattr(backends, "make", lambda *_, **__: made)
    monkeypatch.setattr(choice, "facts", lambda: NodeFacts("x86_64", userfaultfd=True))
    return made


async def moved(world: World, memory: StandbyMemory) -> None:
    assert world.container.init_process
    memory.begin(world.container.init_process)
    with trio.fail_after(5):
        await memory.moved()


@pytest.fixture
async def memory(world: World, cgroup: Path, nursery: trio.Nursery) -> StandbyMemory:
    (cgroup / "memory.stat").write_text(f"anon {64 << 20}\n")
    await world.container.create()
    return StandbyMemory(world.container, nursery)


async def test_there_is_nothing_to_say_before_the_first_move(world: World, memory: StandbyMemory) -> None:
    assert world.container.init_process
    assert memory.report(world.container.init_process) is None


async def test_a_move_is_told_and_counted(world: World, memory: StandbyMemory, backend: Backend) -> None:
    told: list[None] = []
    world.container.life.tell = lambda: told.append(None)
    await moved(world, memory)
    assert told
    assert world.container.init_process
    report = memory.report(world.container.init_process)
    assert report is not None
    assert (report.kind, report.usage.out, report.left) == (Kind.STORE, 100, 64 << 20)
    assert "the node has no swap" in str(report.why)
    assert world.container.metrics.memory_written_bytes_total == 40
    memory.woke()
    await moved(world, memory)
    assert world.container.metrics.memory_written_bytes_total == 80


async def test_faults_are_counted_over_all_wakes(world: World, memory: StandbyMemory, backend: Backend) -> None:
    await moved(world, memory)
    assert world.container.init_process
    for faults in (3, 7, 7):
        backend.state = Usage(out=90, faults=faults)
        memory.report(world.container.init_process)
    assert world.container.metrics.memory_faults_total == 7
    backend.state = Usage(out=90, faults=9)
    memory.woke()
    await moved(world, memory)  # which is the last look at these
    backend.state = Usage(out=90, faults=2)
    memory.report(world.container.init_process)
    assert world.container.metrics.memory_faults_total == 11


async def test_a_move_that_failed_is_said_until_one_succeeds(
    world: World, memory: StandbyMemory, backend: Backend
) -> None:
    backend.failure = "it is full"
    await moved(world, memory)
    assert str(memory.why) == "its memory stays: it is full"
    backend.failure = ""
    memory.woke()
    await moved(world, memory)
    assert "page store" in str(memory.why)
    await memory.close()
    assert world.container.init_process
    assert memory.report(world.container.init_process) is None
