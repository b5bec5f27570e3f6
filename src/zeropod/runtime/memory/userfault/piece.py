"""A part of a container's memory that one move moves, where all of it at once would take too long."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.memory.userfault.holdings import Member
from zeropod.runtime.memory.userfault.ranges import Range, intersect

Present = Callable[[int, Sequence[Range]], Sequence[Range]]
"""Returns the pages in memory of a process within these ranges."""


@dataclass(slots=True)
class Piece:
    """Where the next part begins, and how large it is; each move goes on where the last one ended."""

    size: int
    """Bytes in memory that it has at most."""
    pid: int = 0
    address: int = 0
    """Where it begins."""
    is_last: bool = False
    """Whether nothing lies behind it; the next one begins at the beginning."""

    def cut(self, members: Iterable[Member], present: Present) -> list[Member]:
        """Limit the members' ranges to this piece, and go on behind it; return those that have any."""
        chosen, left, begin = [], self.size & -PAGE, (self.pid, self.address)
        self.is_last = True
        for member in sorted(members, key=lambda each: each.pid):
            if member.pid < begin[0] or not self.is_last:
                continue
            first = begin[1] if member.pid == begin[0] else 0
            ranges = intersect(member.ranges, [(first, 1 << 64)])
            for low, high in present(member.pid, ranges):
                if high - low >= left:
                    self.pid, self.address, self.is_last = member.pid, low + left, False
                    ranges = intersect(ranges, [(first, low + left)])
                    break
                left -= high - low
            member.ranges = ranges
            chosen.append(member)
        if self.is_last:
            self.pid = self.address = 0
        return chosen
