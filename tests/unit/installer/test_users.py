"""Containers that use the runtime, asked of their shims behind real sockets."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from tests.unit.manager.fakes import FakeShim, listen
from trio.to_thread import run_sync as to_thread

from zeropod import shims
from zeropod.installer import users
from zeropod.installer.root import Root
from zeropod.rpc.messages.status_pb2 import ContainerStatus, State, WakeRequest


@pytest.fixture
def node() -> Iterator[Path]:
    """A node's root, by a path that leaves a socket's room."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "run/zeropod/s").mkdir(parents=True)
        yield Path(directory)


async def test_all_that_sleep_are_woken_by_their_shims(node: Path, nursery: trio.Nursery) -> None:
    first = FakeShim(ContainerStatus(id="a", state=State.STANDBY), ContainerStatus(id="b", state=State.RUNNING))
    second = FakeShim(ContainerStatus(id="c", state=State.COLD))
    for number, shim in enumerate((first, second)):
        await listen(node / f"run/zeropod/s/{number}.sock", nursery, shim.services())
    found, silent = await to_thread(users.look, Root(str(node)))
    assert ([each.status.id for each in found], silent) == (["a", "b", "c"], [])
    assert await users._wake(each for each in found if each.status.state in users.ASLEEP) == []
    assert first.requests == [WakeRequest(id="a")]
    assert second.requests == [WakeRequest(id="c")]


async def test_what_cannot_be_woken_is_named(node: Path, nursery: trio.Nursery) -> None:
    shim = FakeShim(ContainerStatus(id="a", namespace="moby", state=State.COLD))
    methods = {name: method for name, method in shim.services()[shims.SERVICE].items() if name != "Wake"}
    await listen(node / "run/zeropod/s/1.sock", nursery, {shims.SERVICE: methods})
    found, _ = await to_thread(users.look, Root(str(node)))
    (failure,) = await users._wake(found)
    assert failure.startswith("moby/a: UNIMPLEMENTED")
