"""A restore and the pager that serves it: whichever of the two ends first decides."""

import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.unit.shim.fakes import World, alive

from zeropod.lifecycle.cold.attempt import Attempt
from zeropod.lifecycle.init_process import InitProcess
from zeropod.runtime.command import Started
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.pager import Pager, listen


class FakePager:
    """Dies when a test says so."""

    def __init__(self) -> None:
        self.dead = trio.Event()
        self.killed = False

    async def died(self) -> None:
        await self.dead.wait()

    async def guarded(self) -> None:
        if self.dead.is_set():
            raise CriuError("it died")

    async def kill(self) -> None:
        self.killed = True


@pytest.fixture
def pager(monkeypatch: pytest.MonkeyPatch) -> FakePager:
    pager = FakePager()
    monkeypatch.setattr(Pager, "at", lambda *_, **__: pager)
    return pager


Restore = Callable[[], Awaitable[None]]


def begin(world: World, criu: Restore, work: Path) -> Callable[[], Awaitable[InitProcess]]:
    """An attempt in which runc does what CRIU does, and then has a new init process."""

    async def restore(
        images: Path, work: Path, options: Sequence[str], timeout: float, started: Started
    ) -> InitProcess:
        started(os.getpid())
        await criu()
        await world.runc._run("restore", "--pid-file", str(world.container.pid_file))
        return world.container.live()

    # It stands in for runc and CRIU alone; the container is the real one.
    world.container.restore = restore  # type: ignore[method-assign]
    one = Attempt(world.container, work / "images", (), lambda _: None)

    async def run() -> InitProcess:
        try:
            with trio.fail_after(10):
                return await one.run((), listen(work))
        except BaseException:  # as the restorer does, cancelled too
            await one.undo()
            raise

    return run


async def until_dead(pid: int) -> None:
    while alive(pid):  # noqa: ASYNC110 - it is killed any moment
        await trio.sleep(0.001)


async def test_a_restore_without_a_pager_is_ended_with_all_that_waits_for_it(
    world: World, pager: FakePager, cgroup: Path, tmp_path: Path
) -> None:
    await world.container.create()
    waiting = world.runc.pids[0]
    (cgroup / "cgroup.procs").write_text(f"{waiting}\n")

    async def criu() -> None:
        pager.dead.set()
        await until_dead(waiting)
        (cgroup / "cgroup.procs").write_text("")
        raise RuncError("criu failed: it was killed")

    assert world.container.init_process is not None
    world.container.init_process.exit_expected = True
    with pytest.raises(CriuError, match="the pager died while CRIU restored"):
        await begin(world, criu, tmp_path)()
    assert pager.killed
    assert world.runc.calls[-1] == "delete"


async def test_a_restore_that_ends_as_its_pager_does_has_failed_and_is_no_exit(
    world: World, pager: FakePager, cgroup: Path, tmp_path: Path
) -> None:
    await world.container.create()
    assert world.container.init_process is not None
    world.container.init_process.exit_expected = True

    async def criu() -> None:
        pager.dead.set()
        await trio.testing.wait_all_tasks_blocked()

    with pytest.raises(CriuError, match="the pager died"):
        await begin(world, criu, tmp_path)()
    restored = world.container.init_process
    assert restored is not None
    os.kill(restored.pid, signal.SIGKILL)
    await restored.exited.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert "TaskExit" not in world.events.names


async def test_a_restore_whose_pager_lives_has_what_it_needs(world: World, pager: FakePager, tmp_path: Path) -> None:
    await world.container.create()

    async def criu() -> None:
        pass

    restored = await begin(world, criu, tmp_path)()
    assert restored is world.container.init_process
    assert not restored.exit_expected
    assert not pager.killed
