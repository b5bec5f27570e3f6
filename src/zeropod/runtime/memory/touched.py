"""Tracks the pages that the last wakes of a container have touched, to bring them in before the next one.

Pure. They are found at the next move: whatever is mapped then was touched since everything was moved out, including
pages brought in beforehand, which are in memory but not mapped. A page counts for a few wakes, since a wake for a
health check or an exec touches other pages than one for a request.
"""

from collections.abc import Iterable
from typing import Final

ROUNDS: Final = 4
"""Wakes in a row without touching a page after which it is forgotten."""

PAGES: Final = 448
"""The most pages that are brought in for each process: 1.75 MiB."""

NOTED: Final = 4096
"""The most new pages that one wake may add; after a wake that touched more, only pages known before count."""


class Touched:
    """The pages of one process, by address."""

    def __init__(self) -> None:
        self._rounds: dict[int, int] = {}

    def learn(self, pages: Iterable[int]) -> None:
        """Record the pages touched since the last call; the iteration stops early if there are too many."""
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
        """Return the addresses to bring in, ascending: the most recently touched, at most PAGES."""
        return sorted(list(self._rounds)[:PAGES])
