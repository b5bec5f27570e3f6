"""The copying between two streams: over streams in memory, in virtual time."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import (
    MockClock,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from zeropod.activator.proxy import LAST_WORDS, End, relay

Stream = trio.abc.HalfCloseableStream
MINUTE = 60.0


class Ends:
    """Two streams that are being relayed to each other, as their far sides see them."""

    def __init__(self, pair: Callable[[], tuple[Stream, Stream]] = memory_stream_pair) -> None:
        self.client, self.accepted = pair()
        self.application, self.connected = pair()
        self.ended: End | None = None
        self.over = trio.Event()

    async def relay(self, timeout: float = 0.0, unsent: Callable[[], int] = lambda: 0) -> None:
        self.ended = await relay(self.accepted, self.connected, timeout=timeout, unsent=unsent)
        self.over.set()


def failing(stream: Stream, half: str) -> None:
    """From now on a stream in memory fails as a reset one does when it is read or written."""

    async def fail() -> None:
        raise trio.BrokenResourceError("reset")

    assert isinstance(stream, trio.StapledStream)
    if half == "receive":
        stream.receive_stream.receive_some_hook = fail
    else:
        stream.send_stream.send_all_hook = fail


async def read_all(stream: Stream) -> bytes:
    return b"".join([data async for data in stream])


async def test_bytes_go_both_ways_in_order(nursery: trio.Nursery) -> None:
    ends = Ends()
    nursery.start_soon(ends.relay)
    for part in (b"GET ", b"/ HTTP/1.0\r\n\r\n"):
        await ends.client.send_all(part)
    await ends.client.send_eof()
    assert await read_all(ends.application) == b"GET / HTTP/1.0\r\n\r\n"
    for part in (b"200 ", b"OK"):
        await ends.application.send_all(part)
    await ends.application.send_eof()
    assert await read_all(ends.client) == b"200 OK"
    await wait_all_tasks_blocked()
    assert ends.ended is End.COMPLETE


@pytest.mark.parametrize("first", ["client", "application"])
async def test_the_end_of_one_side_is_passed_on_and_the_other_goes_on(
    nursery: trio.Nursery, first: str, autojump_clock: MockClock
) -> None:
    ends = Ends()
    early, late = (ends.client, ends.application) if first == "client" else (ends.application, ends.client)
    nursery.start_soon(ends.relay)
    await early.send_eof()
    assert await late.receive_some() == b""
    await trio.sleep(365 * 24 * 3600)
    assert ends.ended is None
    await late.send_all(b"still there")
    assert await early.receive_some() == b"still there"
    await late.send_eof()
    assert await early.receive_some() == b""
    await wait_all_tasks_blocked()
    assert ends.ended is End.COMPLETE


async def test_a_side_that_takes_nothing_stops_the_other_from_sending(nursery: trio.Nursery) -> None:
    ends = Ends(lockstep_stream_pair)
    nursery.start_soon(ends.relay)
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(100):
            await ends.client.send_all(b"x")
            sent += 1

    nursery.start_soon(send)
    await wait_all_tasks_blocked()
    assert sent == 1
    for taken in range(1, 100):
        assert await ends.application.receive_some() == b"x"
        await wait_all_tasks_blocked()
        assert sent == taken + 1
    nursery.cancel_scope.cancel()


async def test_one_direction_that_is_stuck_does_not_hold_up_the_other(nursery: trio.Nursery) -> None:
    ends = Ends(lockstep_stream_pair)
    nursery.start_soon(ends.relay)
    nursery.start_soon(ends.client.send_all, b"nobody reads this")
    await wait_all_tasks_blocked()
    nursery.start_soon(ends.application.send_all, b"hello")
    assert await ends.client.receive_some() == b"hello"
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("reset", ["client", "application"])
async def test_a_reset_ends_both_directions(nursery: trio.Nursery, reset: str) -> None:
    ends = Ends()
    failing(ends.accepted if reset == "client" else ends.connected, "receive")
    await ends.relay()
    assert ends.ended is End.BROKEN


async def test_what_came_before_a_reset_is_passed_on(nursery: trio.Nursery) -> None:
    ends = Ends()
    nursery.start_soon(ends.relay)
    await ends.application.send_all(b"413 too large")
    await wait_all_tasks_blocked()
    failing(ends.connected, "send")
    await ends.client.send_all(b"a large request")
    await wait_all_tasks_blocked()
    assert ends.ended is None
    await ends.application.send_all(b", sorry")
    await ends.application.aclose()
    assert await read_all(ends.client) == b"413 too large, sorry"
    await wait_all_tasks_blocked()
    assert ends.ended is End.BROKEN


async def test_a_side_that_is_gone_does_not_keep_the_other_waiting(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ends = Ends()
    failing(ends.accepted, "send")
    nursery.start_soon(ends.relay)
    started = trio.current_time()
    await ends.application.send_all(b"an event for a client that is gone")
    await ends.over.wait()
    assert ends.ended is End.BROKEN
    assert trio.current_time() - started == pytest.approx(LAST_WORDS)


async def test_an_end_that_cannot_be_passed_on_is_a_loss(nursery: trio.Nursery) -> None:
    ends = Ends()

    async def refuse() -> None:
        raise trio.BrokenResourceError("not connected")

    ends.connected.send_eof = refuse  # type: ignore[method-assign]
    await ends.client.send_eof()
    await ends.application.send_eof()
    await ends.relay()
    assert ends.ended is End.BROKEN


async def test_without_a_timeout_a_connection_may_be_quiet_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ends = Ends()
    nursery.start_soon(ends.relay)
    await trio.sleep(365 * 24 * 3600)
    assert ends.ended is None
    nursery.cancel_scope.cancel()


async def test_a_connection_ends_when_it_was_quiet_for_the_timeout(autojump_clock: MockClock) -> None:
    ends = Ends()
    started = trio.current_time()
    await ends.relay(timeout=MINUTE)
    assert ends.ended is End.IDLE
    assert trio.current_time() - started == pytest.approx(MINUTE)


@pytest.mark.parametrize("talks", ["client", "application"])
async def test_a_byte_in_either_direction_keeps_both_alive(
    nursery: trio.Nursery, autojump_clock: MockClock, talks: str
) -> None:
    ends = Ends()
    stream = ends.client if talks == "client" else ends.application
    started = trio.current_time()
    nursery.start_soon(ends.relay, MINUTE)
    for _ in range(10):
        await trio.sleep(0.9 * MINUTE)
        assert ends.ended is None
        await stream.send_all(b".")
    await ends.over.wait()
    assert ends.ended is End.IDLE
    assert trio.current_time() - started == pytest.approx(10 * 0.9 * MINUTE + MINUTE)


async def test_bytes_that_trickle_out_of_the_kernel_are_no_silence(autojump_clock: MockClock) -> None:
    ends = Ends()
    left = iter([300, 200, 100, 0])
    started = trio.current_time()
    await ends.relay(MINUTE, lambda: next(left))
    assert ends.ended is End.IDLE
    assert trio.current_time() - started == pytest.approx(4 * MINUTE)


async def test_bytes_that_are_stuck_in_the_kernel_end_in_a_loss(autojump_clock: MockClock) -> None:
    ends = Ends()
    started = trio.current_time()
    await ends.relay(MINUTE, lambda: 300)
    assert ends.ended is End.BROKEN
    assert trio.current_time() - started == pytest.approx(2 * MINUTE)


async def test_a_stuck_amount_that_comes_again_after_movement_counts_anew(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    ends = Ends()
    nursery.start_soon(ends.relay, MINUTE, lambda: 300)
    await trio.sleep(1.5 * MINUTE)
    await ends.client.send_all(b".")
    await trio.sleep(1.9 * MINUTE)
    assert ends.ended is None
    await trio.sleep(0.2 * MINUTE)
    assert ends.ended is End.BROKEN


@pytest.mark.parametrize("timeout", [0.0, MINUTE])
async def test_cancelling_ends_it_at_once_and_leaves_no_task(timeout: float, autojump_clock: MockClock) -> None:
    ends = Ends()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.relay, timeout)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert ends.ended is None


async def test_the_callers_cancellation_is_not_taken_for_ours(autojump_clock: MockClock) -> None:
    ends = Ends()
    with trio.move_on_after(MINUTE / 2) as scope:
        await ends.relay(MINUTE)
    assert scope.cancelled_caught


async def test_both_ends_arriving_together_are_complete() -> None:
    ends = Ends()
    await ends.client.send_eof()
    await ends.application.send_eof()
    await ends.relay()
    assert ends.ended is End.COMPLETE
