"""What is passed on is bounded: in memory, in speed, and in how long nothing may happen."""

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from zeropod.manager.migration import relay as module
from zeropod.manager.migration.relay import Bandwidth, relay


async def test_all_transfers_share_the_bandwidth(autojump_clock: MockClock) -> None:
    bandwidth = Bandwidth(1000)

    async def send() -> None:
        for _ in range(20):
            await bandwidth.take(100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(send)
    assert 3.7 < trio.current_time() < 4.1


async def test_without_a_limit_nothing_waits(autojump_clock: MockClock) -> None:
    for _ in range(100):
        await Bandwidth().take(1 << 30)
    assert trio.current_time() == 0


async def test_both_ways_until_one_ends(nursery: trio.Nursery) -> None:
    one, theirs = memory_stream_pair()
    other, source = memory_stream_pair()
    counted: list[int] = []
    ends: list[str] = []

    async def run() -> None:
        ends.append(await relay(one, other, Bandwidth(), counted.append))
        await one.aclose()

    nursery.start_soon(run)
    await theirs.send_all(b"asked")
    assert await source.receive_some() == b"asked"
    await source.send_all(b"answer")
    await source.aclose()
    assert b"".join([bytes(part) async for part in theirs]) == b"answer"
    assert (ends, sum(counted)) == ([""], 6)


async def test_silence_ends_it(autojump_clock: MockClock) -> None:
    one, _theirs = memory_stream_pair()
    other, source = memory_stream_pair()
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            for _ in range(3):
                await trio.sleep(module.SILENCE - 1)
                await source.send_all(b"x")

        nursery.start_soon(trickle)
        assert "nothing came" in await relay(one, other, Bandwidth(), lambda count: None)
    assert trio.current_time() == pytest.approx(3 * (module.SILENCE - 1) + module.SILENCE)


class Stuck(trio.abc.Stream):
    """Takes nothing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.sleep_forever()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.sleep_forever()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.sleep_forever()
        return b""

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_side_that_takes_nothing_ends_it(autojump_clock: MockClock) -> None:
    other, source = memory_stream_pair()
    await source.send_all(b"x")
    assert "took nothing" in await relay(Stuck(), other, Bandwidth(), lambda count: None)
    assert trio.current_time() == pytest.approx(module.SLOWEST)
