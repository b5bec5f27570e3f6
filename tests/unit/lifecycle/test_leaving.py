"""From the wish to leave to the export, and back: what is decided on disk comes first, and what is given never runs."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from zeropod import paths
from zeropod.lifecycle.departure import Departure
from zeropod.lifecycle.leaving import Leaving
from zeropod.lifecycle.machine import Event, Life
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, Departed
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.manifest import Manifest, Needs, Source
from zeropod.runtime.memory.backend import MemoryFailed

WHOLE = Manifest(Source(), Needs(), asleep=True, files={"images/a.img": 1})


class World:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.against: Explanation | None = None
        self.raises: dict[str, Exception] = {}
        self.life = Life()
        cold: Any = SimpleNamespace(
            prospect=SimpleNamespace(examine=self._examine),
            export=self._export,
            take_back=lambda _: self.did("take back"),
            traffic=SimpleNamespace(pass_on=self._pass_on),
        )
        memory: Any = SimpleNamespace(
            descriptors=frozenset(),
            moved=self._does("moved"),
            to_files=self._does("to files"),
            shrink=self._does("shrink"),
            stays=lambda: self.did("stays"),
        )
        self.workload: Any = SimpleNamespace(
            life=self.life,
            init=SimpleNamespace(pid=4),
            init_process=SimpleNamespace(),
            portable=False,
            log=logging.LoggerAdapter(logging.getLogger("leaving"), {}),
        )
        self.leaving = Leaving(self.workload, memory, cold)
        self.departure = Departure("uid.web", Source())

    def did(self, call: str) -> None:
        self.calls.append(call)
        if error := self.raises.get(call):
            raise error

    def _does(self, call: str) -> Callable[..., Any]:
        async def does(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            self.did(call)

        return does

    async def _examine(self, *_: object) -> Explanation | None:
        await trio.lowlevel.checkpoint()
        self.did("examine")
        return self.against

    def _export(self, departure: Departure) -> Manifest:
        self.did("export")
        departure.export.images.mkdir(parents=True)
        return WHOLE

    async def _pass_on(self, address: str, _at_most: float) -> None:
        await trio.lowlevel.checkpoint()
        self.did(f"pass on to {address}")

    async def freeze(self) -> None:
        await trio.lowlevel.checkpoint()
        self.did("freeze")

    def thaw(self) -> None:
        self.did("thaw")

    async def exported(self) -> None:
        self.life.leave(self.departure)
        await self.leaving.export()
        assert self.leaving.has_exported


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(paths, "EXPORTS", tmp_path)
    return World()


# To the dump


async def test_in_standby_it_is_looked_at_before_anything_is_moved(world: World) -> None:
    world.life.leave(world.departure)
    assert await world.leaving.standby_over() is Event.STANDBY_OVER
    assert world.calls == ["moved", "examine", "to files"]
    assert world.workload.portable
    assert not world.departure.is_over


async def test_what_criu_would_lose_is_refused_and_waits_for_the_next_wish(world: World) -> None:
    world.against = Reason.WOULD_LOSE.because("a device is open")
    world.life.leave(world.departure)
    with trio.move_on_after(0.1) as scope:
        await world.leaving.standby_over()
    assert scope.cancelled_caught
    assert await world.departure.exported() is None
    assert "a device is open" in str(world.departure.why)
    assert not world.workload.portable
    assert world.life.departure is None


async def test_one_that_ran_wakes_up_if_it_may_not_leave_after_all(world: World) -> None:
    world.against = Reason.WOULD_LOSE.because("a device is open")
    world.departure.was_awake = True
    world.life.leave(world.departure)
    assert await world.leaving.standby_over() is Event.WANTED


@pytest.mark.parametrize("was_awake", [False, True])
async def test_a_dump_that_comes_to_nothing_is_no_leave(world: World, was_awake: bool) -> None:
    world.departure.was_awake = was_awake
    world.life.leave(world.departure)

    async def keep() -> Event:
        await trio.lowlevel.checkpoint()
        world.life.explanation = Reason.DISK.because("max-checkpoint-bytes")
        return Event.KEPT

    assert await world.leaving.or_stay(keep) is (Event.WANTED if was_awake else Event.KEPT)
    assert "max-checkpoint-bytes" in str(world.departure.why)


async def test_a_dump_that_fails_is_refused_with_its_reason(world: World) -> None:
    world.life.leave(world.departure)

    async def fail() -> Event:
        await trio.lowlevel.checkpoint()
        raise CheckpointFailed(Reason.DUMP_FAILED.because("CRIU said no"))

    with pytest.raises(CheckpointFailed):
        await world.leaving.or_stay(fail)
    assert "CRIU said no" in str(world.departure.why)


async def test_a_dump_without_a_wish_to_leave_is_as_ever(world: World) -> None:
    async def dump() -> Event:
        await trio.lowlevel.checkpoint()
        return Event.DUMPED

    assert await world.leaving.or_stay(dump) is Event.DUMPED


async def test_what_runs_is_looked_at_in_a_moment_and_frozen_for_good_when_it_is_small(world: World) -> None:
    world.life.leave(world.departure)
    assert await world.leaving.bring_to_rest(world.freeze, world.thaw) is Event.FROZEN
    assert world.calls == ["freeze", "moved", "examine", "thaw", "shrink", "freeze"]
    assert world.life.leaves_awake


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("freeze", CgroupError("it hangs"), "it hangs"),
        ("shrink", MemoryFailed("the disk is full"), "the disk is full"),
        ("shrink", OSError(5, "Input/output error"), "Input/output error"),
    ],
)
async def test_what_fails_on_the_way_to_rest_is_refused(world: World, call: str, error: Exception, words: str) -> None:
    world.raises[call] = error
    world.life.leave(world.departure)
    with pytest.raises(CheckpointFailed, match=words):
        await world.leaving.bring_to_rest(world.freeze, world.thaw)
    assert words in str(world.departure.why)
    assert world.life.departure is None


async def test_what_criu_would_lose_of_a_running_one_is_found_before_it_is_frozen_for_good(world: World) -> None:
    world.against = Reason.WOULD_LOSE.because("a device is open")
    world.life.leave(world.departure)
    with pytest.raises(CheckpointFailed, match="a device is open"):
        await world.leaving.bring_to_rest(world.freeze, world.thaw)
    assert world.calls == ["freeze", "moved", "examine", "thaw", "stays"]


# The export, and after it


async def test_what_cannot_be_exported_stays_and_comes_back_if_it_ran(world: World) -> None:
    world.raises["export"] = OSError(28, "No space left on device")
    world.departure.was_awake = True
    world.life.leave(world.departure)
    await world.leaving.export()
    assert not world.leaving.has_exported
    assert "No space left" in str(world.departure.why)
    assert world.life.wake_wanted.is_set()


async def test_an_attempt_that_was_given_up_meanwhile_exports_nothing(world: World) -> None:
    world.departure.refuse(Reason.LEFT_TOO_LATE.because())
    world.life.leave(world.departure)
    await world.leaving.export()
    assert "export" not in world.calls
    assert world.life.departure is None


async def test_a_withdrawal_is_decided_before_anything_is_taken_back(world: World) -> None:
    await world.exported()
    await world.leaving.withdraw()
    assert world.departure.export.decided is Decision.WITHDRAWN
    assert world.calls[-2:] == ["take back", "stays"]
    assert not world.leaving.has_exported
    assert world.life.departure is None


async def test_what_was_given_is_never_taken_back(world: World) -> None:
    await world.exported()
    assert world.departure.export.decide(Decision.GIVEN) is Decision.GIVEN
    with pytest.raises(Departed) as departed:
        await world.leaving.withdraw()
    assert departed.value.status.code == 0
    assert "take back" not in world.calls


@pytest.mark.parametrize("content", [b"perhaps", None])
async def test_an_export_that_cannot_be_decided_is_the_end_and_never_a_second_copy(
    world: World, content: bytes | None
) -> None:
    await world.exported()
    directory = world.departure.export.directory
    if content is None:
        world.departure.export.remove()
    else:
        (directory / "decision").write_bytes(content)
    with pytest.raises(ContainerLost, match="cannot be taken back"):
        await world.leaving.withdraw()
    assert "take back" not in world.calls


async def test_without_an_export_a_restore_is_as_ever(world: World) -> None:
    await world.leaving.withdraw()
    assert world.calls == []


async def test_what_comes_wakes_only_what_waits_for_its_successor(world: World) -> None:
    async def usual() -> Event:
        await trio.lowlevel.checkpoint()
        return Event.CONNECTION

    await world.exported()
    assert len(world.leaving.arrivals((usual,))) == 1
    world.departure.wakes = True
    assert len(world.leaving.arrivals((usual,))) == 2


async def test_once_given_connections_are_passed_on_and_then_it_has_left(world: World) -> None:
    await world.exported()
    world.departure.address = "10.0.0.9"
    world.departure.end(given=True)
    (ended,) = world.leaving.arrivals(())
    with pytest.raises(Departed):
        await ended()
    assert world.calls[-1] == "pass on to 10.0.0.9"


async def test_what_is_wanted_back_comes_back(world: World) -> None:
    await world.exported()
    world.departure.end(given=False)
    (ended,) = world.leaving.arrivals(())
    assert await ended() is Event.WANTED


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_at_the_end_only_what_nothing_may_take_any_more_is_removed(world: World, given: bool, kept: bool) -> None:
    await world.exported()
    world.departure.is_kept = kept
    if given:
        world.departure.export.decide(Decision.GIVEN)
    world.leaving.close()
    assert world.departure.export.exists is (given or kept)
    world.leaving.close()
