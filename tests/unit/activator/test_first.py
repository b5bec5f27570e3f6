"""Waiting for the first of several things."""

import pytest
import trio
from trio.testing import MockClock

from zeropod.activator.first import first_of


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
    await first_of(*waits)
    assert trio.current_time() - began == pytest.approx(1.0)
    assert [wait.cancelled for wait in waits] == [True, False, True]


async def test_an_error_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(OSError, match=r"^no such device$"):
        await first_of(Wait(3.0), Wait(1.0, OSError("no such device")))


async def test_of_two_errors_the_first_comes_out(autojump_clock: MockClock) -> None:
    with pytest.raises(KeyError):
        await first_of(Wait(1.0, KeyError()), Wait(2.0, OSError()))


async def test_without_anything_to_wait_for_it_waits_for_ever(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1000.0) as scope:
        await first_of()
    assert scope.cancelled_caught


async def test_who_gives_up_cancels_all_waits(autojump_clock: MockClock) -> None:
    waits = [Wait(3.0), Wait(4.0)]
    with trio.move_on_after(1.0):
        await first_of(*waits)
    assert all(wait.cancelled for wait in waits)


async def test_something_may_be_done_before_the_others_end(autojump_clock: MockClock) -> None:
    waits = [Wait(3.0), Wait(1.0), Wait(1.0)]
    done: list[list[bool]] = []
    await first_of(*waits, then=lambda _: done.append([wait.cancelled for wait in waits]))
    assert done == [[False, False, False]], "once, for the first"


async def test_what_fails_there_comes_out_too(autojump_clock: MockClock) -> None:
    def fail(_: None) -> None:
        raise OSError("no such cgroup")

    with pytest.raises(OSError, match="no such cgroup"):
        await first_of(Wait(1.0), Wait(2.0), then=fail)
