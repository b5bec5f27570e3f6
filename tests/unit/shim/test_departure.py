"""What a shim does with each answer of its node's manager, at a stop of a container that may move.

The Node service is a fake (`node_service` says why), and so is the strategy below the container's life: it exports or
refuses as a test says, and comes back when it is told to. `tests/integration/exports` has the real ones.
"""

import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.unit.shim.node_service import NodeService
from tests.unit.shim.states import reach

from zeropod import paths
from zeropod.lifecycle.machine import Life, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.settings import Settings
from zeropod.rpc.messages import node_pb2
from zeropod.runtime.exports.manifest import Manifest, Needs, Source
from zeropod.shim.departure import Move

KEY = "uid-2.web"
WHOLE = Manifest(
    Source(), Needs(), asleep=True, files={"images/core-1.img": 10, "store/pages-1": 4096, "store/pages-2": 8192}
)


class World:
    """A container whose strategy does as a test says, and its manager."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.node = NodeService(prepares=node_pb2.PrepareEvacResponse(go=True, key=KEY))
        self.life = Life()
        reach(self.life, State.STANDBY)
        self.exports = True
        self.killed: list[int] = []
        self.ended: list[bool] = []
        self.exited = trio.Event()
        annotations = {
            "io.kubernetes.cri.sandbox-uid": "uid-1",
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "default",
        }
        self.container: Any = SimpleNamespace(
            id="abc",
            name="web",
            life=self.life,
            settings=Settings(migrate=True),
            asked_to_leave=False,
            spec=SimpleNamespace(annotations=annotations),
            runc=SimpleNamespace(namespace="k8s.io"),
            init=SimpleNamespace(exited=self.exited),
            controller=SimpleNamespace(strategy=SimpleNamespace(frozen_at=time.monotonic() - 2)),
            log=logging.LoggerAdapter(logging.getLogger("departure"), {}),
            kill=self._kill,
        )
        nursery.start_soon(self._strategy)

    async def _kill(self, number: int, _everyone: bool) -> None:
        await trio.lowlevel.checkpoint()
        assert self.life.departure is None, "it is not delivered before the container is back"
        self.killed.append(number)

    async def _strategy(self) -> None:
        await self.life.leave_wanted.wait()
        departure = self.life.departure
        assert departure is not None
        if not self.exports:
            departure.refuse(Reason.WOULD_LOSE.because("a device is open"))
            self.life.stay()
            return
        departure.has_exported(WHOLE)
        self.ended.append(await departure.ended())
        if self.ended[0]:
            self.life.state = State.STOPPED
            self.exited.set()
        self.life.stay()

    async def stop(self) -> Move:
        move = Move(self.container, 15, everyone=False)
        with trio.fail_after(20):
            await move.run()
        return move


@pytest.fixture
async def world(nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(paths, "NODE_SOCKET", str(tmp_path / "node.sock"))
    monkeypatch.setattr(paths, "EXPORTS", tmp_path / "exports")
    made = World(nursery)
    async with made.node.at(tmp_path / "node.sock"):
        yield made


async def test_what_is_given_ends_here_without_its_signal(world: World) -> None:
    world.node.evacuates = node_pb2.EvacResponse(outcome=node_pb2.GIVEN, address="10.0.0.7")
    move = await world.stop()
    assert (world.killed, world.ended, move.is_over) == ([], [True], False)
    prepared, evacuated = world.node.asked
    assert isinstance(prepared, node_pb2.PrepareEvacRequest)
    assert isinstance(evacuated, node_pb2.EvacRequest)
    assert (prepared.asleep, prepared.offline, prepared.live, prepared.obstacle) == (True, True, False, "")
    assert (prepared.container.pod_uid, prepared.container.container) == ("uid-1", "web")
    assert prepared.needs.page_size == 4096
    assert (evacuated.key, evacuated.image_bytes, evacuated.stored_bytes) == (KEY, 10, 12288)
    assert 1 < time.time() - evacuated.paused_at.ToNanoseconds() / 1e9 < 10


async def test_what_is_parked_ends_here_and_is_kept(world: World) -> None:
    world.node.prepares.park = True
    world.node.evacuates = node_pb2.EvacResponse(outcome=node_pb2.PARKED)
    kept: list[bool] = []
    ended = world.life.leave

    def leave(departure: Any) -> None:
        ended(departure)
        kept.append(departure.is_kept)

    world.life.leave = leave  # type: ignore[method-assign]
    await world.stop()
    assert (world.killed, world.ended, kept) == ([], [True], [True])


async def test_what_the_manager_has_no_place_for_gets_its_signal(world: World) -> None:
    world.node.prepares = node_pb2.PrepareEvacResponse(why="its owner wants no replacement")
    move = await world.stop()
    assert (world.killed, world.ended, move.is_over) == ([15], [], True)
    assert not world.node.of(node_pb2.EvacRequest)


async def test_what_is_to_be_withdrawn_comes_back_and_gets_its_signal(world: World) -> None:
    world.node.evacuates = node_pb2.EvacResponse(outcome=node_pb2.WITHDRAW, why="its target has failed")
    await world.stop()
    assert (world.killed, world.ended) == ([15], [False])


async def test_what_cannot_be_exported_gets_its_signal_and_the_manager_hears_why(world: World) -> None:
    world.exports = False
    await world.stop()
    assert world.killed == [15]
    _, told = world.node.of(node_pb2.PrepareEvacRequest)
    assert isinstance(told, node_pb2.PrepareEvacRequest)
    assert "a device is open" in told.obstacle


async def test_without_a_manager_it_gets_its_signal(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "NODE_SOCKET", "/nowhere/node.sock")
    world = World(nursery)
    await world.stop()
    assert (world.killed, world.ended) == ([15], [])


@pytest.mark.parametrize("silent", ["PrepareEvac", "Evac"])
async def test_a_manager_that_goes_away_leaves_it_here(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    monkeypatch.setattr(paths, "NODE_SOCKET", str(tmp_path / "node.sock"))
    monkeypatch.setattr(paths, "EXPORTS", tmp_path / "exports")
    world = World(nursery)
    world.node.waits[silent] = trio.Event()
    wanted = {"PrepareEvac": node_pb2.PrepareEvacRequest, "Evac": node_pb2.EvacRequest}[silent]
    async with trio.open_nursery() as stopping:
        async with world.node.at(tmp_path / "node.sock"):
            stopping.start_soon(world.stop)
            while not world.node.of(wanted):  # noqa: ASYNC110 - the request comes over a socket
                await trio.sleep(0.01)
        # Its connections are closed with it.
    assert world.killed == [15]
    assert world.ended == ([False] if silent == "Evac" else [])


async def test_what_is_not_decided_in_time_comes_back(world: World) -> None:
    world.node.waits["Evac"] = trio.Event()
    world.node.prepares.deadline.FromNanoseconds(time.time_ns() + 5 * 10**9)
    await world.stop()
    assert (world.killed, world.ended) == ([15], [False])


async def test_a_deadline_that_is_over_already_asks_for_nothing(world: World) -> None:
    world.node.prepares.deadline.FromNanoseconds(time.time_ns() - 10**9)
    await world.stop()
    assert world.killed == [15]
    assert not world.node.of(node_pb2.EvacRequest)


async def test_a_key_that_is_none_moves_nothing(world: World) -> None:
    world.node.prepares.key = "../../etc"
    await world.stop()
    assert (world.killed, world.ended) == ([15], [])


async def test_a_kill_ends_the_attempt_at_once_and_delivers_nothing_more(world: World) -> None:
    world.node.waits["PrepareEvac"] = trio.Event()
    move = Move(world.container, 15, everyone=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(move.run)
        while not world.node.asked:  # noqa: ASYNC110 - the request comes over a socket
            await trio.sleep(0.01)
        move.cancel()
    assert world.killed == []


async def test_what_ends_by_itself_meanwhile_is_not_waited_for(world: World) -> None:
    world.node.waits["PrepareEvac"] = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.stop)
        while not world.node.asked:  # noqa: ASYNC110 - the request comes over a socket
            await trio.sleep(0.01)
        world.life.state = State.STOPPED
        world.exited.set()
    assert world.killed == []
