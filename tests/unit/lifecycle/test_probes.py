"""A container that would fail a probe does not sleep; it is not asked without end."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from zeropod.lifecycle.probes import RECOVERY, Probes
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.strategy import NotIdle


class FakeResults:
    """Says what would fail."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.asked: list[float] = []

    async def ask_all(self) -> Sequence[str]:
        self.asked.append(trio.current_time())
        return list(self.failures)


def probes(nursery: trio.Nursery) -> Probes:
    """Without eBPF, so without interception, unless a test gives it something to ask."""
    container = SimpleNamespace(settings=Settings(), log=None, init_process=None)
    return Probes(container, SimpleNamespace(lookup=None), nursery)  # type: ignore[arg-type]


async def test_who_is_well_may_sleep_and_is_asked_every_time(nursery: trio.Nursery) -> None:
    made, results = probes(nursery), FakeResults()
    made._results = results  # type: ignore[assignment]
    for times in (1, 2, 3):
        await made.pass_all()
        assert len(results.asked) == times


async def test_who_is_not_stays_awake_and_is_left_alone_for_a_while(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    made, results = probes(nursery), FakeResults()
    made._results = results  # type: ignore[assignment]
    results.failures = ["GET /ready on port 80: status 503"]
    started = trio.current_time()
    for _ in range(round(2 * RECOVERY) + 1):
        with pytest.raises(NotIdle, match="fails a health probe: GET /ready on port 80: status 503"):
            await made.pass_all()
        await trio.sleep(1.0)
    assert results.asked == pytest.approx(
        [
            started,
            started + RECOVERY + 1,
        ],
        abs=1.5,
    )
    results.failures = []
    await trio.sleep(RECOVERY)
    await made.pass_all()


async def test_without_ebpf_nobody_is_asked(nursery: trio.Nursery) -> None:
    made = probes(nursery)
    await made.pass_all()
    made.release()
    assert made.answered == 0
