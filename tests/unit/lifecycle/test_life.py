"""State, holds and the waiting for both."""

import time

import pytest
import trio
from tests.unit.lifecycle.said import said
from tests.unit.shim.states import reach
from trio.testing import wait_all_tasks_blocked

from zeropod.lifecycle.machine import Event, Life, State


class Watcher:
    """Counts the changes that a task which waits for each of them gets to see."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self.states: list[State] = []

    async def run(self) -> None:
        while True:
            await self.life.changed()
            self.states.append(self.life.state)


async def test_everybody_who_waits_hears_of_a_change(nursery: trio.Nursery) -> None:
    life = Life()
    watchers = [Watcher(life) for _ in range(3)]
    for watcher in watchers:
        nursery.start_soon(watcher.run)
    await wait_all_tasks_blocked()
    reach(life, State.RUNNING)
    await wait_all_tasks_blocked()
    reach(life, State.PAUSED)
    await wait_all_tasks_blocked()
    assert [watcher.states for watcher in watchers] == [[State.RUNNING, State.PAUSED]] * 3


async def test_a_change_before_the_wait_does_not_count(nursery: trio.Nursery) -> None:
    life = Life()
    reach(life, State.RUNNING)
    watcher = Watcher(life)
    nursery.start_soon(watcher.run)
    await wait_all_tasks_blocked()
    assert watcher.states == []


async def test_the_end_of_a_hold_is_a_change(nursery: trio.Nursery) -> None:
    life = Life()
    watcher = Watcher(life)
    with life.inhibit(said("exec")):
        nursery.start_soon(watcher.run)
        await wait_all_tasks_blocked()
        assert watcher.states == []
    await wait_all_tasks_blocked()
    assert len(watcher.states) == 1


def test_a_container_is_held_until_the_last_hold_ends() -> None:
    life = Life()
    assert life.inhibited_by == ""
    with life.inhibit(said("exec 1")):
        with life.inhibit(said("exec 2")):
            assert life.inhibited_by == "exec 1"
        assert life.inhibited_by == "exec 1"
    assert life.inhibited_by == ""


def test_holds_of_the_same_reason_are_told_apart_and_end_in_any_order() -> None:
    life = Life()
    first, second = life.inhibit(said("exec")), life.inhibit(said("exec"))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert life.inhibited_by == "exec"
    second.__exit__(None, None, None)
    assert life.inhibited_by == ""


def test_a_hold_ends_with_an_error_inside_it() -> None:
    life = Life()
    with pytest.raises(LookupError), life.inhibit(said("exec")):
        raise LookupError
    assert life.inhibited_by == ""


def test_a_hold_alone_wakes_nobody() -> None:
    life = Life()
    reach(life, State.COLD)
    with life.inhibit(said("exec")):
        assert not life.wake_wanted.is_set()


def test_every_sleep_begins_with_nobody_who_wants_its_end() -> None:
    life = Life()
    reach(life, State.RUNNING)
    life.wake_wanted.set()
    reach(life, State.CHECKPOINTING)
    assert not life.wake_wanted.is_set()


def test_who_wants_a_container_that_leaves_standby_is_not_forgotten() -> None:
    life = Life()
    for state in (State.RUNNING, State.CHECKPOINTING, State.STANDBY):
        reach(life, state)
    life.wake_wanted.set()
    reach(life, State.CHECKPOINTING)
    reach(life, State.COLD)
    assert life.wake_wanted.is_set()


def test_who_wants_it_awake_while_it_falls_asleep_is_not_forgotten() -> None:
    life = Life()
    reach(life, State.CHECKPOINTING)
    life.wake_wanted.set()
    reach(life, State.COLD)
    assert life.wake_wanted.is_set()


def test_a_sleeping_container_has_no_reason_to_be_awake() -> None:
    life = Life()
    life.explanation = said("active 1 s ago")
    reach(life, State.CHECKPOINTING)
    assert life.why
    reach(life, State.COLD)
    assert life.why == ""


def test_the_time_of_the_last_change_is_kept() -> None:
    life = Life()
    assert life.state is State.CREATED
    before = time.time_ns()
    reach(life, State.RUNNING)
    assert before <= life.since_ns <= time.time_ns()


def test_a_naps_end_of_the_last_sleep_is_not_wanted_of_the_next() -> None:
    life = Life()
    reach(life, State.STANDBY)
    life.nap_wanted.set()
    reach(life, State.RUNNING)
    reach(life, State.STANDBY)
    assert not life.nap_wanted.is_set()


def test_what_wants_a_nap_while_it_leaves_standby_for_the_disk_is_not_forgotten() -> None:
    life = Life()
    reach(life, State.STANDBY)
    life.nap_wanted.set()
    life.happen(Event.STANDBY_OVER)
    life.happen(Event.KEPT)
    assert life.nap_wanted.is_set()
    life.happen(Event.WANTED_SHORTLY)
    assert not life.nap_wanted.is_set(), "it has its nap"


async def test_the_end_of_an_attempt_ends_the_wait_of_what_has_asked_for_it(nursery: trio.Nursery) -> None:
    life = Life()
    reach(life, State.RUNNING)
    watcher, wanted = Watcher(life), life.sleep_wanted
    wanted.set()
    nursery.start_soon(watcher.run)
    await wait_all_tasks_blocked()
    life.end_attempt()
    await wait_all_tasks_blocked()
    assert watcher.states == [State.RUNNING]
    assert life.sleep_wanted is not wanted
    assert not life.sleep_wanted.is_set()


async def test_what_inhibits_for_good_is_told_once_and_never_ends(nursery: trio.Nursery) -> None:
    life = Life()
    watcher = Watcher(life)
    nursery.start_soon(watcher.run)
    await wait_all_tasks_blocked()
    for _ in range(2):
        life.inhibit_for_good(said("it is being stopped"))
        await wait_all_tasks_blocked()
    assert len(watcher.states) == 1
    with life.inhibit(said("exec")), life.inhibit(said("it is being stopped")):
        assert [str(why) for why in life.inhibitors] == ["it is being stopped", "exec", "it is being stopped"]
    assert life.inhibited_by == "it is being stopped"
    with trio.fail_after(1):
        await life.inhibited()


def test_words_that_change_nothing_are_not_told() -> None:
    life, told = Life(), list[str]()
    life.tell = lambda: told.append(life.why)
    for _ in range(2):
        life.explanation = said("active 1 s ago")
    assert told == ["active 1 s ago"]
