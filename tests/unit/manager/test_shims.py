"""All shims of a node, found through real sockets."""

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from google.protobuf.message import Message
from trio.testing import MockClock

from zeropod import paths as places
from zeropod import shims
from zeropod.rpc.messages.status_pb2 import ContainerStatus, ListRequest, ListResponse
from zeropod.rpc.server import serve, unary
from zeropod.shim import status as shim_status


async def shim(
    place: Path, nursery: trio.Nursery, name: str, answer: Callable[[ListRequest], Awaitable[Message]]
) -> None:
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.bind(str(place / f"{name}.sock"))
    sock.listen()
    services = {shims.SERVICE: {"List": unary(ListRequest, answer)}}
    nursery.start_soon(serve, [trio.SocketListener(sock)], services)


def having(*containers: ContainerStatus) -> Callable[[ListRequest], Awaitable[Message]]:
    async def answer(request: ListRequest) -> Message:
        return ListResponse(containers=containers)

    return answer


def test_shims_are_looked_for_where_they_listen() -> None:
    assert shims.SERVICE == shim_status.SERVICE


async def test_the_containers_of_all_shims_come_in_the_order_of_their_names(place: Path, nursery: trio.Nursery) -> None:
    def named(namespace: str, pod: str, container: str) -> ContainerStatus:
        return ContainerStatus(id="x", pod_namespace=namespace, pod=pod, container=container)

    await shim(place, nursery, "1", having(named("b", "1", "z"), named("b", "1", "a")))
    await shim(place, nursery, "2", having(named("a", "9", "m")))
    await shim(place, nursery, "3", having())
    found, silent = await shims.look()
    names = [(entry.status.pod_namespace, entry.status.container) for entry in found]
    assert names == [
        ("a", "m"),
        ("b", "a"),
        ("b", "z"),
    ]
    assert silent == []


async def test_a_dead_shim_is_named_and_the_others_answer(place: Path, nursery: trio.Nursery) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "0.sock"))
    await shim(place, nursery, "1", having(ContainerStatus(id="web")))
    found, silent = await shims.look()
    assert [entry.status.id for entry in found] == ["web"]
    assert silent == [f"{place}/0.sock: UNAVAILABLE: {place}/0.sock: Connection refused"]


async def test_a_shim_that_hangs_is_not_waited_for_long(
    place: Path, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    async def hang(request: ListRequest) -> Message:
        await trio.sleep_forever()
        raise AssertionError

    for name in ("1", "2"):
        await shim(place, nursery, name, hang)
    await shim(place, nursery, "3", having(ContainerStatus(id="web")))
    began = trio.current_time()
    found, silent = await shims.look()
    assert trio.current_time() - began == pytest.approx(shims.PATIENCE)
    assert ([entry.status.id for entry in found], len(silent)) == (["web"], 2)


async def test_other_files_are_no_shims(place: Path) -> None:
    (place / "notes.txt").touch()
    assert await shims.look() == ([], [])


def test_a_node_on_which_no_shim_ever_ran_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "STATUS_SOCKETS", "/nonexistent/s")
    assert shims.sockets() == []


async def test_who_may_not_look_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        await shims.look()
