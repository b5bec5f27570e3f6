"""A container that comes back before its start: what the controller does with it, and what is left where it fails."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from tests.unit.lifecycle.test_controller import SCALEDOWN, Sleeping, failing, sleeping
from trio.testing import MockClock

from zeropod.lifecycle.arrival import AdoptionFailed, Arrival
from zeropod.lifecycle.departure import Departure
from zeropod.lifecycle.machine import Action, Event, Life, State
from zeropod.runtime.exports.manifest import Source

__all__ = ["sleeping"]


def arrival() -> Arrival:
    coming: Any = SimpleNamespace(manifest=SimpleNamespace(asleep=True))
    return Arrival(coming)


@pytest.fixture
def created(sleeping: Sleeping) -> Sleeping:
    """One that is not started."""
    sleeping.life.state = State.CREATED
    return sleeping


async def run(created: Sleeping, one: Arrival) -> None:
    await created.controller.run(one)
    created.ended.set()


async def test_it_waits_for_its_start_and_then_falls_asleep_without_having_run(
    created: Sleeping, autojump_clock: MockClock
) -> None:
    one = arrival()
    created.world.pod.nursery.start_soon(run, created, one)
    await one.here()
    await trio.sleep(1000)
    assert created.life.state is State.CREATED
    assert [name for name, _ in created.script.steps if name not in ("make", "watch_memory")] == ["adopt"]
    one.start(created.life.happen(Event.START_ASLEEP))
    await created.asleep()
    assert not created.script.times("ready")
    created.script.arrive()
    await created.awake()


async def test_awake_it_is_watched_from_its_start_on(created: Sleeping, autojump_clock: MockClock) -> None:
    one = arrival()
    created.world.pod.nursery.start_soon(run, created, one)
    await one.here()
    await trio.sleep(5)
    created.life.happen(Event.START)
    started = trio.current_time()
    one.start((Action.AWAIT_IDLE,))
    await created.asleep()
    assert created.script.times("freeze")[0] <= started + SCALEDOWN


async def test_one_that_does_not_come_leaves_nothing_and_can_be_created(
    created: Sleeping, autojump_clock: MockClock
) -> None:
    created.script.phases["adopt"] = [failing(AdoptionFailed("CRIU said no"))]
    one = arrival()
    created.world.pod.nursery.start_soon(run, created, one)
    with pytest.raises(AdoptionFailed, match="CRIU said no"):
        await one.here()
    await created.over()
    assert created.strategy.released == 1
    assert created.network.closed == 1
    assert created.life.state is State.CREATED
    created.life.happen(Event.START)
    created.start()
    await created.asleep()


async def test_an_unexpected_failure_is_one_too(created: Sleeping, autojump_clock: MockClock) -> None:
    created.script.phases["make"] = [ValueError("a defect")]
    one = arrival()
    created.world.pod.nursery.start_soon(run, created, one)
    with pytest.raises(AdoptionFailed, match="ValueError: a defect"):
        await one.here()
    await created.over()


async def test_what_fails_once_it_is_here_is_contained_as_ever(created: Sleeping, autojump_clock: MockClock) -> None:
    one = arrival()
    created.world.pod.nursery.start_soon(run, created, one)
    await one.here()
    created.script.phases["freeze"] = [ValueError("a defect")]
    one.start(created.life.happen(Event.START_ASLEEP))
    await created.awake()
    await created.asleep()
    assert len(created.script.times("adopt")) == 1


# Leaving, as the loop has it


def departure(*, live: bool) -> Departure:
    return Departure("uid.web", Source(), live=live)


async def test_an_awake_container_that_may_not_move_awake_says_so_and_goes_on(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    one = departure(live=False)
    await trio.sleep(1)
    sleeping.life.leave(one)
    assert await one.exported() is None
    assert "live-migrate does not name it" in str(one.why)
    assert sleeping.life.departure is None
    await sleeping.asleep()


async def test_an_awake_container_is_brought_to_rest_dumped_and_exported(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.start()
    await trio.sleep(1)
    sleeping.script.arrivals = [Event.STANDBY_OVER, Event.LEAVE]
    sleeping.life.leave(departure(live=True))
    await sleeping.become(State.COLD)
    with trio.fail_after(10):
        while not sleeping.script.times("export"):  # noqa: ASYNC110 - the script has no event for it
            await trio.sleep(0.1)
    names = [name for name, _ in sleeping.script.steps]
    assert [name for name in names if name in ("bring_to_rest", "dump", "export", "freeze")] == [
        "bring_to_rest",
        "dump",
        "export",
    ]
    assert sleeping.life.state is State.COLD


async def test_a_paused_container_does_not_leave(sleeping: Sleeping, autojump_clock: MockClock) -> None:
    sleeping.start()
    await trio.sleep(1)
    sleeping.life.happen(Event.PAUSE)
    one = departure(live=True)
    sleeping.life.leave(one)
    assert await one.exported() is None
    assert sleeping.life.state is State.PAUSED


async def test_it_need_not_wait_for_the_end_of_a_pause_between_attempts(
    sleeping: Sleeping, autojump_clock: MockClock
) -> None:
    sleeping.script.phases["freeze"] = [ValueError("a defect")] * 9
    sleeping.start()
    await trio.sleep(SCALEDOWN * 8)
    sleeping.script.phases.clear()
    began = trio.current_time()
    sleeping.life.leave(departure(live=True))
    with trio.fail_after(1):
        while not sleeping.script.times("bring_to_rest"):  # noqa: ASYNC110 - the script has no event for it
            await trio.sleep(0.01)
    assert sleeping.script.times("bring_to_rest")[0] - began < 1


def test_what_is_decided_first_counts() -> None:
    one = departure(live=True)
    one.end(given=True)
    one.end(given=False)
    assert one.is_given


def test_a_life_without_a_departure_leaves_nothing() -> None:
    life = Life()
    assert not life.leaves_awake
    life.leave(departure(live=True))
    assert life.leave_wanted.is_set()
    life.stay()
    assert (life.departure, life.leave_wanted.is_set()) == (None, False)
