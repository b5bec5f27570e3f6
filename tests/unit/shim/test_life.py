"""State, holds and the waiting for both."""

import time

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from zeropod.shim.life import Life
from zeropod.shim.lifecycle import State


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
    life.enter(State.RUNNING)
    await wait_all_tasks_blocked()
    life.enter(State.PAUSED)
    await wait_all_tasks_blocked()
    assert [watcher.states for watcher in watchers] == [[State.RUNNING, State.PAUSED]] * 3


async def test_a_change_before_the_wait_does_not_count(nursery: trio.Nursery) -> None:
    life = Life()
    life.enter(State.RUNNING)
    watcher = Watcher(life)
    nursery.start_soon(watcher.run)
    await wait_all_tasks_blocked()
    assert watcher.states == []


async def test_the_end_of_a_hold_is_a_change(nursery: trio.Nursery) -> None:
    life = Life()
    watcher = Watcher(life)
    with life.kept_awake("exec"):
        nursery.start_soon(watcher.run)
        await wait_all_tasks_blocked()
        assert watcher.states == []
    await wait_all_tasks_blocked()
    assert len(watcher.states) == 1


def test_a_container_is_held_until_the_last_hold_ends() -> None:
    life = Life()
    assert life.held_by == ""
    with life.kept_awake("exec 1"):
        with life.kept_awake("exec 2"):
            assert life.held_by == "exec 1"
        assert life.held_by == "exec 1"
    assert life.held_by == ""


def test_holds_of_the_same_reason_are_told_apart_and_end_in_any_order() -> None:
    life = Life()
    first, second = life.kept_awake("exec"), life.kept_awake("exec")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert life.held_by == "exec"
    second.__exit__(None, None, None)
    assert life.held_by == ""


def test_a_hold_ends_with_an_error_inside_it() -> None:
    life = Life()
    with pytest.raises(LookupError), life.kept_awake("exec"):
        raise LookupError
    assert life.held_by == ""


def test_a_hold_alone_wakes_nobody() -> None:
    life = Life()
    life.enter(State.COLD)
    with life.kept_awake("exec"):
        assert not life.wake_wanted.is_set()


def test_every_sleep_begins_with_nobody_who_wants_its_end() -> None:
    life = Life()
    life.enter(State.RUNNING)
    life.wake_wanted.set()
    life.enter(State.CHECKPOINTING)
    assert not life.wake_wanted.is_set()


def test_who_wants_a_container_that_leaves_standby_is_not_forgotten() -> None:
    life = Life()
    for state in (State.RUNNING, State.CHECKPOINTING, State.STANDBY):
        life.enter(state)
    life.wake_wanted.set()
    life.enter(State.CHECKPOINTING)
    life.enter(State.COLD)
    assert life.wake_wanted.is_set()


def test_who_wants_it_awake_while_it_falls_asleep_is_not_forgotten() -> None:
    life = Life()
    life.enter(State.CHECKPOINTING)
    life.wake_wanted.set()
    life.enter(State.COLD)
    assert life.wake_wanted.is_set()


def test_a_sleeping_container_has_no_reason_to_be_awake() -> None:
    life = Life()
    life.why = "active 1 s ago"
    life.enter(State.CHECKPOINTING)
    assert life.why
    life.enter(State.COLD)
    assert life.why == ""


def test_the_time_of_the_last_change_is_kept() -> None:
    life = Life()
    assert life.state is State.CREATED
    before = time.time_ns()
    life.enter(State.RUNNING)
    assert before <= life.since_ns <= time.time_ns()
