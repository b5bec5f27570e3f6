"""Bytes from one stream to another, both ways, with a bound on memory, on speed, and on how long nothing may happen."""

from collections.abc import Callable
from functools import partial

import trio

CHUNK = 64 << 10
"""Bytes on their way in one direction: all that is in memory of a transfer."""
SLOWEST = 30.0
"""Seconds for a side to take a chunk."""
SILENCE = 120.0
"""Seconds without a byte in either direction: longer than a restore takes, in which a target asks for nothing."""
BURST = 0.1
"""Seconds of the bandwidth that may go at once after a pause."""


class Bandwidth:
    """What all transfers of a node may send together."""

    def __init__(self, per_second: int = 0) -> None:
        self._per_second, self._next = per_second, 0.0

    async def take(self, count: int) -> None:
        """Return when so many bytes may go."""
        if not self._per_second:
            return
        now = trio.current_time()
        # When it would be due if bytes went evenly; a burst runs ahead of that.
        due = max(self._next, now)
        self._next = due + count / self._per_second
        await trio.sleep(max(0.0, due - BURST - now))


async def relay(
    one: trio.abc.Stream, other: trio.abc.Stream, bandwidth: Bandwidth, count: Callable[[int], object]
) -> str:
    """Pass on what comes until either side ends; return why, empty for an end in order.

    What goes from `other` to `one` takes of the bandwidth, and is counted.
    """
    ends: list[str] = []
    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope

        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream, *, is_limited: bool) -> None:
            try:
                while data := bytes(await source.receive_some(CHUNK)):
                    scope.deadline = trio.current_time() + SILENCE
                    if is_limited:
                        await bandwidth.take(len(data))
                        count(len(data))
                    with trio.fail_after(SLOWEST):
                        await sink.send_all(data)
                    scope.deadline = trio.current_time() + SILENCE
                ends.append("")
            except trio.TooSlowError:
                ends.append(f"one side took nothing for {SLOWEST:g} s")
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                ends.append(f"the connection broke: {error.__cause__ or error}")
            scope.cancel()

        scope.deadline = trio.current_time() + SILENCE
        nursery.start_soon(partial(pump, one, other, is_limited=False))
        nursery.start_soon(partial(pump, other, one, is_limited=True))
    return ends[0] if ends else f"nothing came for {SILENCE:g} s"
