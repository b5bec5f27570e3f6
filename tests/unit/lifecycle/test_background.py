"""The priority of a dump, with priorities that are only noted."""

import logging

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.kernel import priority
from zeropod.lifecycle.cold.background import BACKGROUND_SECONDS, BackgroundPriority

Noted = list[tuple[object, ...]]
LOG = logging.LoggerAdapter(logging.getLogger(__name__), {})


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Noted:
    calls: Noted = []
    monkeypatch.setattr(priority, "lower", lambda pid: calls.append(("lower", pid)))
    monkeypatch.setattr(priority, "raise_all", lambda pid: calls.append(("raise", pid)))
    return calls


async def test_a_dump_has_little_of_the_cpu_and_of_the_disk(nursery: trio.Nursery, calls: Noted) -> None:
    BackgroundPriority(nursery, LOG).lower(11)
    assert calls == [("lower", 11)]


async def test_once_something_waits_what_runs_is_raised_and_what_follows_is_not_lowered(
    nursery: trio.Nursery, calls: Noted
) -> None:
    background, wanted = BackgroundPriority(nursery, LOG), trio.Event()
    background.lower(11)
    background.watch(wanted.wait, trio.sleep_forever)
    await wait_all_tasks_blocked()
    assert calls == [("lower", 11)]
    wanted.set()
    await wait_all_tasks_blocked()
    background.lower(12)
    assert calls == [("lower", 11), ("raise", 11)]
    await background.end()


async def test_it_hurries_when_it_takes_long(nursery: trio.Nursery, calls: Noted, autojump_clock: MockClock) -> None:
    background = BackgroundPriority(nursery, LOG)
    background.lower(11)
    background.watch(trio.sleep_forever)
    await trio.sleep(BACKGROUND_SECONDS / 2)
    assert calls == [("lower", 11)]
    await trio.sleep(BACKGROUND_SECONDS)
    assert calls[-1] == ("raise", 11)


async def test_after_its_end_nothing_is_watched(nursery: trio.Nursery, calls: Noted) -> None:
    background, wanted = BackgroundPriority(nursery, LOG), trio.Event()
    background.watch(wanted.wait)
    await background.end()
    await background.end()
    wanted.set()
    await wait_all_tasks_blocked()
    assert calls == []


async def test_what_cannot_be_watched_is_a_reason_to_hurry(nursery: trio.Nursery, calls: Noted) -> None:
    async def breaks() -> None:
        raise OSError("no such queue")

    background = BackgroundPriority(nursery, LOG)
    background.lower(11)
    background.watch(breaks)
    await wait_all_tasks_blocked()
    assert calls[-1] == ("raise", 11)


async def test_a_kernel_that_refuses_costs_time_and_nothing_else(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(priority, "lower", refuse)
    monkeypatch.setattr(priority, "raise_all", refuse)
    background, wanted = BackgroundPriority(nursery, LOG), trio.Event()
    background.lower(11)
    background.watch(wanted.wait)
    wanted.set()
    await wait_all_tasks_blocked()
    await background.end()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
