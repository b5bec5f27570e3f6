"""Which pages the last wakes of a container have touched, to bring them in before the next one.

Pure. Found at the next move: whatever is mapped then has been touched since everything went out, also what was brought
in beforehand, which is in memory but not mapped. A page counts for a few wakes, since one that a health check or an
exec has caused touches others than a request does.
"""

from collections.abc import Iterable
from typing import Final

ROUNDS: Final = 4
"""Wakes in a row without touching a page after which it is forgotten."""

PAGES: Final = 448
"""The most that are brought in for each process: 1.75 MiB."""

NOTED: Final = 4096
"""Pages beyond which a wake was no short one: only those that were known before count then."""


class Touched:
    """The pages of one process, by address."""

    def __init__(self) -> None:
        self._rounds: dict[int, int] = {}

    def learn(self, pages: Iterable[int]) -> None:
        """Take note of what has been touched since the last time; the iteration ends early if that is a lot."""
        found: set[int] = set()
        for page in pages:
            found.add(page)
            if len(found) > NOTED:
                found &= self._rounds.keys()
                break
        rounds = {page: left - 1 for page, left in self._rounds.items() if left > 1}
        rounds.update(dict.fromkeys(found, ROUNDS))
        latest = sorted(rounds, key=lambda page: (-rounds[page], page not in self._rounds))
        self._rounds = {page: rounds[page] for page in latest[:NOTED]}

    def wanted(self) -> list[int]:
        """Return the addresses to bring in, in ascending order: those that were touched last, at most PAGES."""
        return sorted(list(self._rounds)[:PAGES])
