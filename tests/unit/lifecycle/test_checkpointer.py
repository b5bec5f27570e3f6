"""The way from a container that is frozen to its image: what is undone wherever it ends before."""

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from tests.unit.lifecycle.said import said
from tests.unit.shim.fakes import World

from zeropod.activator.hold.frozen import FrozenSockets
from zeropod.lifecycle.cold.checkpointer import Checkpointer
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import RuncError
from zeropod.runtime.images import Inventory
from zeropod.runtime.tmpfs import KeptMounts


async def test_a_container_whose_processes_have_just_ended_is_not_dumped(world: World) -> None:
    """Its cgroup is empty and its exit not yet known. That must not end the shim of its pod."""
    await world.container.create()
    kept = KeptMounts(world.runc.bundle / "tmpfs")
    # What is held is not looked at: there is nothing to be held yet.
    checkpointer = Checkpointer(world.container, world.pod.nursery, Mock(), kept)
    init_process = world.container.init_process
    assert init_process is not None
    with pytest.raises(NotIdle, match="about to end"):
        await checkpointer.checkpoint(init_process, FrozenSockets())
    assert "checkpoint" not in world.runc.calls
    assert not init_process.exit_expected


class Held:
    """Stands in for `Traffic`."""

    def __init__(self, refuses: Exception | None = None) -> None:
        self.refuses = refuses
        self.calls: list[str] = []

    def hold(self, *_: object) -> None:
        self.calls.append("hold")
        if self.refuses:
            raise self.refuses

    def hand_over(self) -> None:
        self.calls.append("hand over")

    def leave_repair(self, _: object) -> None:
        self.calls.append("leave repair")

    def processes_are_gone(self) -> None:
        self.calls.append("processes are gone")

    async def connection(self) -> None:
        await trio.sleep_forever()

    data = connection


class FakeDump:
    """Stands in for `Dump`; CRIU waits to begin at once, unless a test says otherwise."""

    is_ready = False
    waits = False
    fails: Exception | None = None

    def __init__(self, *_: object) -> None:
        MADE.append(self)
        self.stopped = 0
        self.went = False

    async def run(self) -> None:
        await trio.lowlevel.checkpoint()

    async def ready(self) -> None:
        if self.waits:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.is_ready = True

    async def go(self) -> None:
        self.went = True
        await trio.lowlevel.checkpoint()
        if self.fails:
            raise self.fails

    async def stop(self) -> None:
        self.stopped += 1
        await trio.lowlevel.checkpoint()


MADE: list[FakeDump] = []


class Attempt:
    """One checkpoint of a container that runs, by what stands in for CRIU."""

    def __init__(self, world: World, traffic: Held) -> None:
        self.world, self.traffic = world, traffic
        assert world.container.init_process is not None
        self.init_process = world.container.init_process
        kept = KeptMounts(world.runc.bundle / "tmpfs")
        given: Any = traffic
        self.checkpointer = Checkpointer(world.container, world.pod.nursery, given, kept)
        self.has_arrived = False
        self.arrival: Callable[[], Awaitable[object]] = trio.sleep_forever

    async def run(self) -> Inventory:
        sockets: Any = SimpleNamespace(event=lambda _: self.arrival(), ready=lambda _: self.has_arrived)
        with trio.fail_after(10):
            return await self.checkpointer.checkpoint(self.init_process, sockets)

    @property
    def is_undone(self) -> bool:
        """CRIU is ended, what was held is the container's again, and its exit is its own."""
        (dump,) = MADE
        store = self.world.container.store
        held = self.traffic.calls[-1] == "hand over" and not store.images.exists()
        return dump.stopped == 1 and held and not self.init_process.exit_expected


@pytest.fixture
async def attempt(world: World, cgroup: Path, monkeypatch: pytest.MonkeyPatch) -> Attempt:
    monkeypatch.setattr("zeropod.lifecycle.cold.checkpointer.Dump", FakeDump)
    monkeypatch.setattr(FakeDump, "waits", False)
    monkeypatch.setattr(FakeDump, "fails", None)
    MADE.clear()
    await world.container.create()
    (cgroup / "cgroup.procs").write_text(f"{world.runc.pids[0]}\n")
    return Attempt(world, Held())


async def test_what_comes_before_criu_has_begun_ends_the_attempt(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDump, "waits", True)
    attempt.arrival = trio.lowlevel.checkpoint
    with pytest.raises(NotIdle, match="an event arrived at the last moment"):
        await attempt.run()
    assert attempt.traffic.calls == ["hand over"]
    assert attempt.is_undone


@pytest.mark.parametrize("what", ["has arrived", "wake_wanted", "nap_wanted"])
async def test_what_comes_before_the_last_look_ends_the_attempt(attempt: Attempt, what: str) -> None:
    if what == "has arrived":
        attempt.has_arrived = True
    else:
        getattr(attempt.world.container.life, what).set()
    with pytest.raises(NotIdle):
        await attempt.run()
    assert not MADE[0].went
    assert attempt.is_undone


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (NotIdle(said("a peer has not acknowledged all data yet")), NotIdle),
        (CheckpointFailed(said("this kernel can neither")), CheckpointFailed),
        (OSError("no descriptors"), CheckpointFailed),
        (CgroupError("gone"), CheckpointFailed),
        (ValueError("a defect"), ValueError),
    ],
)
async def test_what_cannot_be_held_is_let_go_of(attempt: Attempt, error: Exception, becomes: type[Exception]) -> None:
    attempt.traffic.refuses = error
    with pytest.raises(becomes, match=str(error)):
        await attempt.run()
    assert not MADE[0].went
    assert attempt.is_undone


async def test_a_criu_that_fails_leaves_the_container_as_it_was(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeDump, "fails", RuncError("runc failed"))
    with pytest.raises(CheckpointFailed, match="its checkpoint failed: runc failed"):
        await attempt.run()
    assert attempt.traffic.calls == ["hold", "leave repair", "hand over"]
    assert attempt.is_undone


async def test_who_is_cancelled_leaves_nothing_held(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeDump, "waits", True)
    with trio.move_on_after(0.2):
        await attempt.run()
    assert attempt.is_undone


async def test_processes_that_are_gone_without_an_image_are_lost(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(_: FakeDump) -> None:
        os.kill(attempt.init_process.pid, signal.SIGKILL)
        await attempt.init_process.exited.wait()
        raise RuncError("runc failed")

    monkeypatch.setattr(FakeDump, "go", dies)
    with pytest.raises(ContainerLost, match="died in a checkpoint that failed: runc failed") as lost:
        await attempt.run()
    assert lost.value.status is attempt.init_process.exit
    assert attempt.traffic.calls[-1] == "hand over"


async def test_an_image_that_is_whole_is_taken_for_the_processes_once_they_are_gone(
    attempt: Attempt, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dumps(dump: FakeDump) -> None:
        assert attempt.init_process.exit_expected
        assert attempt.traffic.calls == ["hold"]
        (attempt.world.container.store.images / "pages-1.img").write_bytes(b"x" * 5)
        os.kill(attempt.init_process.pid, signal.SIGKILL)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(FakeDump, "go", dumps)
    monkeypatch.setattr(attempt.world.container, "stats_awake", lambda: "the last ones")
    inventory = await attempt.run()
    assert [file.size for file in inventory.values()] == [5]
    assert attempt.traffic.calls == ["hold", "processes are gone"]
    assert attempt.init_process.exited.is_set()
    assert attempt.world.container.slept == "the last ones"
    assert attempt.world.events.events == [], "the end of the processes is not the container's"
