"""Looking at what has come without taking it away."""

import socket

import pytest
import trio
from trio.testing import MockClock

from zeropod.activator.probe_inspector import PEEK_PAUSE, PEEKS_AT_ONCE, Peeker


async def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    return tuple(trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())  # type: ignore[return-value]


async def test_what_was_seen_is_still_there() -> None:
    client, accepted = await pair()
    async with client, accepted:
        peeker = Peeker(accepted)
        await client.send_all(b"hello")
        await peeker.more(100)
        assert (peeker.data, peeker.ended) == (b"hello", False)
        assert peeker.take() == b"hello"
        await client.send_all(b"more")
        assert await accepted.receive_some() == b"more"


async def test_no_more_than_wanted_is_looked_at() -> None:
    client, accepted = await pair()
    async with client, accepted:
        peeker = Peeker(accepted)
        await client.send_all(b"hello")
        await peeker.more(3)
        assert peeker.data == b"hel"


async def test_the_end_is_seen_with_and_without_a_word_before() -> None:
    for said in (b"", b"bye"):
        client, accepted = await pair()
        async with client, accepted:
            peeker = Peeker(accepted)
            await client.send_all(said)
            await client.send_eof()
            while not peeker.ended:
                await peeker.more(100)
            assert peeker.data == said


async def test_whoever_sends_byte_by_byte_is_looked_at_less_often(autojump_clock: MockClock) -> None:
    client, accepted = await pair()
    async with client, accepted:
        peeker, started = Peeker(accepted), trio.current_time()
        for looks in range(1, PEEKS_AT_ONCE + 6):
            await client.send_all(b"x")
            await peeker.more(100)
            assert trio.current_time() - started == pytest.approx(PEEK_PAUSE * max(0, looks - PEEKS_AT_ONCE))
