"""Copying between two connected streams until both sides are done.

Owns the copying, and how it ended. Knows no addresses, and leaves opening and closing the streams to forward.py. Rules:

1. The end of one side's data is passed on as a half-close. The copying is over when both sides have ended.
2. Nothing is read from one side before the other has taken what was read last: the slower one sets the pace.
3. It may last for ever, and be quiet for ever, unless its owner sets a timeout.
4. Any other end is distinguished from that: a truncated response must not look complete.
"""

import math
from collections.abc import Callable
from enum import Enum

import trio

_CHUNK = 1 << 17  # bytes; larger ones come from mmap(2) each time, which costs more than it saves
LAST_WORDS = 5.0
"""Seconds to read data that a side has sent before it reset the connection."""


class End(Enum):
    """How the copying between two streams ended."""

    COMPLETE = "both sides sent all they had"
    IDLE = "no byte came for the time allowed, and all that came before was passed on"
    BROKEN = "one side was reset, or did not take its bytes for the time allowed"


async def relay(
    one: trio.abc.HalfCloseableStream,
    other: trio.abc.HalfCloseableStream,
    *,
    timeout: float = 0.0,
    unsent: Callable[[], int] = lambda: 0,
) -> End:
    """Copy between two streams, both ways, without closing them or raising their exceptions.

    `timeout`: seconds without a byte in either direction after which it gives up; 0 means never. Bytes that a stream
    has accepted may still be unsent in the kernel: `unsent` returns their number, checked once in `timeout` seconds. A
    falling number counts as activity.
    """
    return await _Relay(timeout, unsent).run(one, other)


class _Relay:
    def __init__(self, timeout: float, unsent: Callable[[], int]) -> None:
        self._timeout = timeout
        self._unsent = unsent
        self._moved_at = trio.current_time()
        self._end = End.COMPLETE
        self._scope = trio.CancelScope()

    async def run(self, one: trio.abc.HalfCloseableStream, other: trio.abc.HalfCloseableStream) -> End:
        with self._scope:
            async with trio.open_nursery() as watching:
                if self._timeout > 0:
                    watching.start_soon(self._watch)
                async with trio.open_nursery() as directions:
                    directions.start_soon(self._copy, one, other)
                    directions.start_soon(self._copy, other, one)
                watching.cancel_scope.cancel()
        return self._end

    async def _copy(self, source: trio.abc.HalfCloseableStream, sink: trio.abc.HalfCloseableStream) -> None:
        while True:
            try:
                data = await source.receive_some(_CHUNK)
            except trio.BrokenResourceError:
                self._stop(End.BROKEN)
                return
            self._moved_at = trio.current_time()
            try:
                await (sink.send_all(data) if data else sink.send_eof())
            except trio.BrokenResourceError:
                # The sink was reset, but what it sent before may still wait to be read: an error response and
                # a close, while the request was still coming. A moment for that, and no more, since a source
                # that takes nothing could make it wait for ever.
                self._end = End.BROKEN
                self._scope.deadline = min(self._scope.deadline, trio.current_time() + LAST_WORDS)
                return
            self._moved_at = trio.current_time()
            if not data:
                return

    async def _watch(self) -> None:
        looked_at, left_then = -math.inf, 0
        while True:
            deadline = max(self._moved_at, looked_at) + self._timeout
            if trio.current_time() < deadline:
                await trio.sleep_until(deadline)
                continue
            left = self._unsent()
            if left == 0:
                self._stop(End.IDLE)
                return
            if self._moved_at < looked_at and left >= left_then:
                self._stop(End.BROKEN)
                return
            looked_at, left_then = trio.current_time(), left

    def _stop(self, end: End) -> None:
        # A loss that was seen before stays one.
        if self._end is not End.BROKEN:
            self._end = end
        self._scope.cancel()
