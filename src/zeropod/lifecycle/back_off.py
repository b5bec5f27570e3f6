"""How long one container is left alone after an attempt to put it to sleep that came to nothing."""

import time
from collections.abc import Sequence

import trio

from zeropod.lifecycle.life import Life

RECHECK = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between attempts after failures; the last one for all further ones."""

REBUILD = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds after an unexpected failure of the sleep machinery until it is set up anew; the last one for further ones."""

BUSY = 1.0
"""Seconds until the next look at a container that was busy after all."""


class BackOff:
    def __init__(self, life: Life) -> None:
        self._life = life
        self._failures = 0
        """Attempts that failed in a row."""
        self._rebuilds = 0
        """Unexpected failures since it last slept."""
        self.next_attempt_ns = 0
        """When it is tried again after a failure, at the earliest, in nanoseconds since 1970; 0 without one."""

    def slept(self) -> None:
        """Begin anew: an attempt has succeeded."""
        self._failures = self._rebuilds = 0

    def after_failure(self) -> float:
        """Count a failed attempt, and return the seconds until the next one."""
        self._failures += 1
        return _of(RECHECK, self._failures)

    def after_unexpected_failure(self) -> float:
        """Count a failure of the machinery, and return the seconds until it is set up anew."""
        self._rebuilds += 1
        return _of(REBUILD, self._rebuilds)

    async def pause(self, seconds: float) -> None:
        """End the attempt, and return when the next one may be made or is asked for."""
        self._life.end_attempt()
        with trio.move_on_after(seconds):
            await self._life.sleep_wanted.wait()

    async def pause_after_failure(self, seconds: float) -> None:
        """Pause, and tell meanwhile when the next attempt is."""
        self.next_attempt_ns = time.time_ns() + round(seconds * 1e9)
        try:
            await self.pause(seconds)
        finally:
            self.next_attempt_ns = 0


def _of(pauses: Sequence[float], number: int) -> float:
    return pauses[min(number, len(pauses)) - 1]
