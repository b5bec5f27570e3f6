"""What becomes of an image once it is of no use any more, in virtual time."""

import errno
from pathlib import Path
from typing import NoReturn

import pytest
import trio
from tests.unit.shim.fakes import World
from trio.testing import MockClock

from zeropod.lifecycle.cold.attempt import Attempt
from zeropod.lifecycle.cold.restorer import LATER, Restorer
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.images import ImageStore


@pytest.fixture
def restorer(world: World, nursery: trio.Nursery, tmp_path: Path) -> Restorer:
    world.container.store = ImageStore(tmp_path / "image")
    world.container.store.images.mkdir(parents=True)
    return Restorer(world.container, nursery, lambda _: None)


def is_there(restorer: Restorer) -> bool:
    return restorer._workload.store.images.exists()


async def test_it_stays_while_others_may_be_waking_up(restorer: Restorer, autojump_clock: MockClock) -> None:
    await restorer.complete()
    await trio.sleep(LATER / 2)
    assert is_there(restorer)
    await trio.sleep(LATER)
    await restorer.dropped()
    assert not is_there(restorer)


async def test_the_next_dump_has_it_gone_at_once(restorer: Restorer, autojump_clock: MockClock) -> None:
    await restorer.complete()
    await restorer.dropped()
    assert not is_there(restorer)
    assert trio.current_time() < LATER


async def test_an_earlier_look_takes_nothing_of_the_next_image(restorer: Restorer, autojump_clock: MockClock) -> None:
    await restorer.complete()
    await trio.sleep(LATER / 2)
    await restorer.complete()  # it was too busy to sleep, and starts over
    await restorer.dropped()
    restorer._workload.store.images.mkdir()
    await trio.sleep(2 * LATER)
    assert is_there(restorer)


async def test_what_a_failed_restore_has_left_is_ended_though_its_mounts_cannot_be_taken_back(
    world: World, restorer: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> NoReturn:
        raise RuncError("criu failed")

    def busy() -> NoReturn:
        raise OSError(errno.EBUSY, "busy")

    await world.container.create()
    monkeypatch.setattr(Attempt, "run", fail)
    monkeypatch.setattr(restorer.kept, "has_failed", busy)
    with pytest.raises(CriuError, match="criu failed"):
        await restorer.restore(lazy=False)
    assert world.runc.calls[-1] == "delete"
