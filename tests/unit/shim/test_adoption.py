"""The Start of a container that has come back asleep: frozen without having run, or awake if that is not possible."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from zeropod.lifecycle.machine import Action, Event
from zeropod.runtime.cgroups import CgroupError
from zeropod.shim import adoption


class Cgroup:
    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.is_thawed = False

    async def freeze(self, _deadline: float) -> None:
        await trio.lowlevel.checkpoint()
        if self.error:
            raise self.error

    def thaw(self) -> None:
        self.is_thawed = True


@pytest.mark.parametrize("error", [None, CgroupError("it does not freeze"), OSError(5, "I/O error")])
async def test_what_cannot_be_frozen_runs(error: Exception | None) -> None:
    happened: list[Event] = []

    def happen(event: Event) -> tuple[Action, ...]:
        happened.append(event)
        return ()

    cgroup = Cgroup(error)
    container: Any = SimpleNamespace(
        id="c",
        init=SimpleNamespace(pid=7),
        init_process=SimpleNamespace(cgroup=cgroup, pids=list),
        life=SimpleNamespace(happen=happen),
        log=logging.LoggerAdapter(logging.getLogger(__name__), {}),
        publish=lambda _event: None,
        has_started=trio.Event(),
    )
    arrival: Any = SimpleNamespace(
        coming=SimpleNamespace(manifest=SimpleNamespace(asleep=True)), start=lambda _row: None
    )
    assert await adoption.start(container, arrival) == 7
    assert happened == [Event.START if error else Event.START_ASLEEP]
    assert cgroup.is_thawed == bool(error)
    assert container.has_started.is_set()
