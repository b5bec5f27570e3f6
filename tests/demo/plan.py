"""How the demo goes: how often the pods sleep, how deep, and who wakes them."""

from collections.abc import Iterator
from dataclasses import dataclass

STANDBY, COLD = "STANDBY", "COLD"
"""The two depths of sleep, as `zeropod ps` calls them."""

STANDBY_DURATION = 4.0
"""Seconds in STANDBY, where nobody comes: longer than a round that is to end there, however slow the machine."""


@dataclass(frozen=True, slots=True)
class Round:
    """Both sleep once; nginx is always woken by a new connection."""

    depth: str
    """The state in which they are wanted again."""
    by_open: bool
    """Redis is woken by a request on the connection that stays open."""
    by_new: bool
    """By one on a new connection; at the same time, if by both."""


@dataclass(frozen=True, slots=True)
class Plan:
    standby: int
    """How often they are woken from STANDBY."""
    cold: int
    """How often from COLD, after that."""
    megabytes: int
    """How much redis holds."""
    idle: float
    """Seconds without traffic after which they sleep."""

    def __len__(self) -> int:
        return self.standby + self.cold

    def rounds(self) -> Iterator[Round]:
        for number in range(self.standby):
            yield Round(STANDBY, by_open=number % 2 == 0, by_new=number % 2 == 1)
        for _ in range(self.cold):
            yield Round(COLD, by_open=True, by_new=True)
