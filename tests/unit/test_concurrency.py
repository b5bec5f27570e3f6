"""Waiting for the first of several things, and tasks whose failures are told to their owner."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.concurrency import GuardedNursery, leaves, race


class Wait:
    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.seconds = seconds
        self.error = error
        self.cancelled = False

    async def __call__(self) -> None:
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.cancelled = True
            raise
        if self.error:
            raise self.error


async def test_the_first_ends_it_and_the_others_are_cancelled(autojump_clock: MockClock) -> None:
    waits = [Wait(3.0), Wait(1.0), Wait(2.0)]
    began = trio.current_time()
    await race(*waits)
    assert trio.current_time() - began == pytest.approx(1.0)
    assert [wait.cancelled for wait in waits] == [True, False, True]


async def test_an_error_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match=r"^no such device$"):
        await race(Wait(3.0), Wait(1.0, OSError("no such device")))


async def test_of_two_errors_the_first_comes_out(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        await race(Wait(1.0, KeyError()), Wait(2.0, OSError()))


async def test_without_anything_to_wait_for_it_waits_for_ever(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1000.0) as scope:
        await race()
    assert scope.cancelled_caught


async def test_who_gives_up_cancels_all_waits(autojump_clock: MockClock) -> None:
    waits = [Wait(3.0), Wait(4.0)]
    with trio.move_on_after(1.0):
        await race(*waits)
    assert all(wait.cancelled for wait in waits)


async def test_something_may_be_done_before_the_others_end(autojump_clock: MockClock) -> None:
    waits = [Wait(3.0), Wait(1.0), Wait(1.0)]
    done: list[list[bool]] = []
    await race(*waits, on_first=lambda _: done.append([wait.cancelled for wait in waits]))
    assert done == [[False, False, False]], "once, for the first"


async def test_what_fails_there_comes_out_too(autojump_clock: MockClock) -> None:
    def fail(_: None) -> None:
        raise OSError("no such cgroup")

    with pytest.raises(OSError, match="no such cgroup"):
        await race(Wait(1.0), Wait(2.0), on_first=fail)


@pytest.mark.parametrize("late", [OSError("late"), ValueError("late")])
async def test_a_failure_after_the_first_result_is_logged_and_takes_nothing_away(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, late: Exception
) -> None:
    async def fails_when_it_is_cancelled() -> str:
        try:
            await trio.sleep_forever()
        finally:
            raise late
        return ""

    async def first() -> str:
        await trio.sleep(1.0)
        return "first"

    assert await race(fails_when_it_is_cancelled, first) == "first"
    assert "late" in caplog.text


async def test_a_result_after_the_first_failure_is_none(autojump_clock: MockClock) -> None:
    noted: list[str] = []

    async def returns_when_it_is_cancelled() -> str:
        with suppress(trio.Cancelled):
            await trio.sleep_forever()
        return "late"

    async def fails() -> str:
        await trio.sleep(1.0)
        raise OSError("first")

    with pytest.raises(OSError, match="first"):
        await race(returns_when_it_is_cancelled, fails, on_first=noted.append)
    assert noted == []


# Tasks whose failures are told


async def fail(error: Exception) -> None:
    await trio.lowlevel.checkpoint()
    raise error


async def start(value: int, error: Exception | None = None, *, task_status: trio.TaskStatus[int]) -> None:
    if error and not value:
        raise error
    task_status.started(value)
    await trio.lowlevel.checkpoint()
    if error:
        raise error
    await trio.sleep_forever()


async def test_the_first_failure_is_told_and_the_other_tasks_go_on(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    tasks, others = GuardedNursery(nursery), [Wait(5.0), Wait(7.0)]
    for other in others:
        tasks.start_soon(other)
    assert tasks.failure is None
    first = ValueError("first")
    tasks.start_soon(fail, first)
    await wait_all_tasks_blocked()
    tasks.start_soon(fail, OSError("second"))
    await wait_all_tasks_blocked()
    assert tasks.failure is first
    with trio.fail_after(1.0):
        assert await tasks.failed() is first
    await trio.sleep(10.0)
    assert [other.cancelled for other in others] == [False, False]


async def test_without_a_failure_it_is_waited_for(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    tasks = GuardedNursery(nursery)
    tasks.start_soon(Wait(1.0))
    with trio.move_on_after(100.0) as scope:
        await tasks.failed()
    assert scope.cancelled_caught


async def test_a_task_says_that_it_has_started_and_with_what(nursery: trio.Nursery) -> None:
    tasks = GuardedNursery(nursery)
    assert await tasks.start(start, 7) == 7
    await wait_all_tasks_blocked()
    assert tasks.failure is None


async def test_what_fails_before_it_has_started_is_its_starters_business(nursery: trio.Nursery) -> None:
    tasks = GuardedNursery(nursery)
    with pytest.raises(OSError, match="no port"):
        await tasks.start(start, 0, OSError("no port"))
    assert tasks.failure is None


async def test_what_fails_after_that_is_told(nursery: trio.Nursery) -> None:
    tasks, error = GuardedNursery(nursery), OSError("gone")
    await tasks.start(start, 1, error)
    assert await tasks.failed() is error


async def test_a_group_is_told_as_it_is(nursery: trio.Nursery) -> None:
    tasks, group = GuardedNursery(nursery), ExceptionGroup("", [ValueError(), KeyError()])
    tasks.start_soon(fail, group)
    assert await tasks.failed() is group


async def test_tasks_end_with_the_nursery_and_that_is_no_failure(autojump_clock: MockClock) -> None:
    wait = Wait(100.0)
    async with trio.open_nursery() as nursery:
        tasks = GuardedNursery(nursery)
        tasks.start_soon(wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert wait.cancelled
    assert tasks.failure is None


def test_the_leaves_of_a_group_are_found_at_any_depth() -> None:
    inner = ExceptionGroup("", [OSError("2"), KeyError(3)])
    assert [str(leaf) for leaf in leaves(ExceptionGroup("", [ValueError("1"), inner]))] == ["1", "2", "3"]
    assert [str(leaf) for leaf in leaves(ValueError("1"))] == ["1"]
