"""The pace of falling asleep, with priorities that are only noted."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from zeropod.kernel import priority
from zeropod.shim.pace import PATIENCE, Pace

Noted = list[tuple[object, ...]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Noted:
    calls: Noted = []
    monkeypatch.setattr(priority, "lower", lambda pid, *, disk: calls.append(("lower", pid, disk)))
    monkeypatch.setattr(priority, "raise_all", lambda pid: calls.append(("raise", pid)))
    return calls


async def test_a_dump_has_little_of_the_disk_too_and_a_restore_only_of_the_cpu(
    nursery: trio.Nursery, calls: Noted
) -> None:
    pace = Pace(nursery)
    pace.dumps(11)
    pace.restores(12)
    assert calls == [("lower", 11, True), ("lower", 12, False)]


async def test_once_somebody_waits_what_runs_is_raised_and_what_follows_is_not_lowered(
    nursery: trio.Nursery, calls: Noted
) -> None:
    pace, somebody = Pace(nursery), trio.Event()
    pace.dumps(11)
    pace.watch(somebody.wait, trio.sleep_forever)
    await wait_all_tasks_blocked()
    assert calls == [("lower", 11, True)]
    somebody.set()
    await wait_all_tasks_blocked()
    pace.restores(12)
    assert calls == [("lower", 11, True), ("raise", 11)]
    await pace.end()


async def test_it_hurries_when_it_takes_long(nursery: trio.Nursery, calls: Noted, autojump_clock: MockClock) -> None:
    pace = Pace(nursery)
    pace.dumps(11)
    pace.watch(trio.sleep_forever)
    await trio.sleep(PATIENCE / 2)
    assert calls == [("lower", 11, True)]
    await trio.sleep(PATIENCE)
    assert calls[-1] == ("raise", 11)


async def test_after_its_end_nobody_is_watched(nursery: trio.Nursery, calls: Noted) -> None:
    pace, somebody = Pace(nursery), trio.Event()
    pace.watch(somebody.wait)
    await pace.end()
    await pace.end()
    somebody.set()
    await wait_all_tasks_blocked()
    assert calls == []


async def test_what_cannot_be_watched_is_a_reason_to_hurry(nursery: trio.Nursery, calls: Noted) -> None:
    async def breaks() -> None:
        raise OSError("no such queue")

    pace = Pace(nursery)
    pace.dumps(11)
    pace.watch(breaks)
    await wait_all_tasks_blocked()
    assert calls[-1] == ("raise", 11)
