"""Connections to a pod that has moved, on loopback addresses that stand for the two pods'."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest
import trio

from zeropod.activator.pass_on import PassingOn

OLD, NEW = "127.0.0.1", "127.0.0.2"
NETNS = "/proc/self/ns/net"


@pytest.fixture
def held() -> Iterator[socket.socket]:
    with socket.create_server((OLD, 0)) as listener:
        listener.setblocking(False)
        yield listener


@pytest.fixture
async def moved(held: socket.socket, nursery: trio.Nursery) -> list[bytes]:
    """The application at its new address, which answers a request with its length when the client has ended."""
    got: list[bytes] = []

    async def answer(stream: trio.SocketStream) -> None:
        data = b""
        with suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some():
                data += chunk
            got.append(data)
            await stream.send_all(b"%d" % len(data))

    await nursery.start(partial(trio.serve_tcp, answer, held.getsockname()[1], host=NEW))
    return got


async def request(port: int, data: bytes) -> bytes:
    stream = await trio.open_tcp_stream(OLD, port)
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        answer = b""
        while chunk := await stream.receive_some():
            answer += chunk
    return answer


async def test_what_waited_and_what_comes_is_answered(held: socket.socket, moved: list[bytes]) -> None:
    port = held.getsockname()[1]
    waited = await trio.open_tcp_stream(OLD, port)
    await waited.send_all(b"early")
    passing = PassingOn([held], NETNS, NEW)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(passing.run, quiet=0.2, at_most=10))
        assert await request(port, b"x" * 300_000) == b"300000"
        await waited.send_eof()
        assert await waited.receive_some() == b"5"
    await waited.aclose()
    assert passing.passed == 2
    assert sorted(map(len, moved)) == [5, 300_000]


async def test_it_ends_when_nothing_comes(held: socket.socket) -> None:
    passing = PassingOn([held], NETNS, NEW)
    with trio.fail_after(5):
        await passing.run(quiet=0.05, at_most=60)
    assert not passing.passed


async def test_a_connection_that_cannot_be_passed_on_is_reset(held: socket.socket) -> None:
    passing = PassingOn([held], NETNS, NEW)  # nothing listens there
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(passing.run, quiet=0.1, at_most=10))
        with pytest.raises(trio.BrokenResourceError):
            await request(held.getsockname()[1], b"x")


async def test_the_time_is_bounded(held: socket.socket, moved: list[bytes]) -> None:
    passing = PassingOn([held], NETNS, NEW)
    stays = await trio.open_tcp_stream(OLD, held.getsockname()[1])
    with trio.fail_after(5):
        await passing.run(quiet=0.05, at_most=0.5)
    with pytest.raises(trio.BrokenResourceError):
        await stays.receive_some()
    await stays.aclose()
