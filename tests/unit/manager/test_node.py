"""All shims of a node, watched through real sockets: those that come, go, hang, die and lie."""

import os
import socket
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from google.protobuf.message import Message
from tests.unit.manager.fakes import FakeShim, Send, listen
from trio.testing import MockClock

from zeropod import shims
from zeropod.manager.node import RETRY, Node
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus, Update
from zeropod.rpc.server import Services, streaming, unary


def web(name: str = "web", **fields: object) -> ContainerStatus:
    return ContainerStatus(id=name, **fields)  # type: ignore[arg-type]


async def until(node: Node, condition: Callable[[], bool]) -> None:
    with trio.fail_after(100):
        while not condition():
            await node.changed()


def ids(node: Node) -> list[str]:
    return [status.id for status in node.containers]


@pytest.fixture
async def node(place: Path, nursery: trio.Nursery) -> Node:
    made = Node()
    nursery.start_soon(made.run)
    await until(made, lambda: made.ready)
    return made


def watched_by(function: Callable[[status_pb2.WatchRequest, Send], Awaitable[None]]) -> Services:
    return {shims.SERVICE: {"Watch": streaming(status_pb2.WatchRequest, function)}}


async def test_shims_that_are_there_are_heard_before_it_is_ready(place: Path, nursery: trio.Nursery) -> None:
    await listen(place / "1.sock", nursery, FakeShim(web("a")).services())
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "2.sock"))
    node = Node()
    assert not node.ready
    nursery.start_soon(node.run)
    await until(node, lambda: node.ready)
    assert (ids(node), node.answering, len(node.silent)) == (["a"], 1, 1)
    assert "Connection refused" in node.silent[0]


async def test_containers_are_found_by_their_pods(place: Path, nursery: trio.Nursery, node: Node) -> None:
    # For a moment after a pod's sandbox was made anew it has two shims.
    shim = FakeShim(web("a", pod_uid="u1"), web("b", pod_uid="u1"))
    for name, each in (("1", shim), ("2", FakeShim(web("c", pod_uid="u1"))), ("3", FakeShim(web("d", pod_uid="u2")))):
        await listen(place / f"{name}.sock", nursery, each.services())
    await until(node, lambda: len(node.containers) == 4)
    found = node.by_pod()
    assert {uid: {each.id for each in statuses} for uid, statuses in found.items()} == {
        "u1": {"a", "b", "c"}, "u2": {"d"},
    }  # fmt: skip
    shim.change(web("b", pod_uid="u1", pod="new"))
    await until(node, lambda: any(each.pod for each in node.by_pod()["u1"]))
    assert node.by_pod()["u2"] is found["u2"]


async def test_a_shim_that_comes_later_is_found_at_once(place: Path, nursery: trio.Nursery, node: Node) -> None:
    assert ids(node) == []
    await listen(place / "1.sock", nursery, FakeShim(web("a")).services())
    await until(node, lambda: ids(node) == ["a"])


async def test_every_change_is_heard_without_asking(place: Path, nursery: trio.Nursery, node: Node) -> None:
    shim = FakeShim(web("a"))
    await listen(place / "1.sock", nursery, shim.services())
    await until(node, lambda: ids(node) == ["a"])
    for state in (status_pb2.RUNNING, status_pb2.COLD):
        shim.change(web("a", state=state))
        await until(node, lambda state=state: node.containers[0].state == state)  # type: ignore[misc]
    shim.change(web("b"))
    await until(node, lambda: ids(node) == ["a", "b"])
    shim.remove("a")
    await until(node, lambda: ids(node) == ["b"])
    assert shim.watchers == 1


async def test_a_missed_change_is_noticed_and_made_up_for(place: Path, nursery: trio.Nursery, node: Node) -> None:
    shim = FakeShim(web("a"))
    await listen(place / "1.sock", nursery, shim.services())
    await until(node, lambda: ids(node) == ["a"])
    shim.containers["b"] = web("b")
    shim.say(Update(sequence=9, after=8, containers=[web("c")]))
    seen: list[list[str]] = []

    def complete() -> bool:
        seen.append(ids(node))
        return seen[-1] == ["a", "b"]

    await until(node, complete)
    assert shim.watchers == 2
    assert [] not in seen, "what was known does not vanish meanwhile"


async def test_a_shim_that_ends_takes_its_containers_along(place: Path, nursery: trio.Nursery, node: Node) -> None:
    scope = await listen(place / "1.sock", nursery, FakeShim(web("a")).services())
    await listen(place / "2.sock", nursery, FakeShim(web("b")).services())
    await until(node, lambda: ids(node) == ["a", "b"])
    scope.cancel()
    (place / "1.sock").unlink()
    await until(node, lambda: ids(node) == ["b"] and node.silent == [])


async def test_one_that_dies_is_silent_until_another_takes_its_place(
    place: Path, nursery: trio.Nursery, node: Node
) -> None:
    scope = await listen(place / "1.sock", nursery, FakeShim(web("a")).services())
    await until(node, lambda: ids(node) == ["a"])
    scope.cancel()
    await until(node, lambda: ids(node) == [] and "Connection refused" in "".join(node.silent))
    await listen(place / "1.sock", nursery, FakeShim(web("b")).services())
    await until(node, lambda: ids(node) == ["b"] and node.silent == [])


async def test_one_that_hangs_delays_nobody_and_is_heard_when_it_answers(
    place: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    shim = FakeShim(web("slow"))
    attempts = 0

    async def hang(request: status_pb2.WatchRequest, send: Send) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 3:
            await trio.sleep_forever()
        await shim.watch(request, send)

    await listen(place / "1.sock", nursery, watched_by(hang))
    await listen(place / "2.sock", nursery, FakeShim(web("a")).services())
    node, began = Node(), trio.current_time()
    nursery.start_soon(node.run)
    await until(node, lambda: ids(node) == ["a"])
    assert trio.current_time() == began
    assert not node.ready
    await until(node, lambda: node.ready)
    assert trio.current_time() - began == pytest.approx(shims.PATIENCE)
    assert "no answer within" in node.silent[0]
    await until(node, lambda: ids(node) == ["a", "slow"])
    assert trio.current_time() - began == pytest.approx(3 * shims.PATIENCE + sum(RETRY[:3]))


async def test_one_that_talks_nonsense_is_left_alone_for_longer_and_longer(
    place: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    times: list[float] = []

    async def garbage(stream: trio.SocketStream) -> None:
        times.append(trio.current_time())
        await stream.receive_some()
        await stream.send_all(b"\xff" * 100)
        await stream.aclose()

    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(place / "1.sock"))
    sock.listen()
    nursery.start_soon(trio.serve_listeners, garbage, [trio.SocketListener(sock)])
    node = Node()
    nursery.start_soon(node.run)
    await trio.sleep(200.0)
    assert (ids(node), len(node.silent), node.answering) == ([], 1, 0)
    assert [later - earlier for earlier, later in pairwise(times)][:5] == pytest.approx(RETRY)
    assert len(times) < 10


async def test_an_older_shim_that_cannot_be_watched_is_named(place: Path, nursery: trio.Nursery, node: Node) -> None:
    async def answer(request: Message) -> Message:
        return status_pb2.ListResponse()

    await listen(place / "1.sock", nursery, {shims.SERVICE: {"List": unary(status_pb2.ListRequest, answer)}})
    await until(node, lambda: bool(node.silent))
    assert "method Watch" in node.silent[0]


async def test_the_directory_may_be_made_anew(place: Path, nursery: trio.Nursery, node: Node) -> None:
    scope = await listen(place / "1.sock", nursery, FakeShim(web("a")).services())
    await until(node, lambda: ids(node) == ["a"])
    scope.cancel()
    os.unlink(place / "1.sock")
    os.rmdir(place)
    await until(node, lambda: ids(node) == [] and os.path.isdir(place))
    await listen(place / "1.sock", nursery, FakeShim(web("b")).services())
    await until(node, lambda: ids(node) == ["b"])


async def test_two_hundred_shims_are_watched_at_once_and_only_their_latest_word_is_kept(
    place: Path, nursery: trio.Nursery, node: Node
) -> None:
    made = [FakeShim(web(f"{number:03}")) for number in range(200)]
    for number, shim in enumerate(made):
        await listen(place / f"{number}.sock", nursery, shim.services())
    await until(node, lambda: len(ids(node)) == 200)
    for dozes in (1, 2, 3):
        for shim in made:
            (name,) = shim.containers
            shim.change(web(name, dozes=dozes))
        await until(node, lambda dozes=dozes: all(status.dozes == dozes for status in node.containers))  # type: ignore[misc]
    assert (len(ids(node)), node.answering, node.silent) == (200, 200, [])
