"""The rate of requests to the API server: a limit, and pauses that grow while it fails."""

import random

import trio

CHANCE = random.Random()
"""Shared, because each generator takes kilobytes."""
FIRST, LONGEST = 0.25, 15.0
"""Seconds of the first and of the longest pause: work resumes well within a minute of the end of a failure."""


class RateLimit:
    """At most `per_second` requests on average, and `burst` at once. Further ones wait in order."""

    def __init__(self, per_second: float = 20.0, burst: int = 30) -> None:
        self._interval, self._ahead = 1 / per_second, (burst - 1) / per_second
        self._next = float("-inf")

    async def wait(self) -> None:
        """Return when the next request may be sent."""
        now = trio.current_time()
        # When it would be due if requests came evenly; a burst runs ahead of that.
        due = max(self._next, now)
        self._next = due + self._interval
        await trio.sleep(max(0.0, due - self._ahead - now))


class Backoff:
    """Pauses between attempts, each up to twice as long as the last, and random, so that nodes do not retry at once."""

    def __init__(self, first: float = FIRST, longest: float = LONGEST, chance: random.Random | None = None) -> None:
        self._first, self._longest = first, longest
        self._chance = chance or CHANCE
        self.failures = 0

    def succeeded(self) -> None:
        """Reset to the shortest pause."""
        self.failures = 0

    def failed(self, retry_after: float = 0.0) -> float:
        """Return the seconds to wait now, not less than the server asks for, within a bound."""
        # The exponent is bounded, or weeks of failures would overflow a float.
        pause = min(self._first * 2.0 ** min(self.failures, 30), self._longest)
        self.failures += 1
        return max(pause * self._chance.uniform(0.5, 1.0), min(retry_after, self._longest))
