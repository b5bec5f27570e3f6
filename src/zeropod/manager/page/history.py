"""Recent state changes of containers, in bounded memory, for a page that asks for new ones.

Each container has rows: when it entered a state, how long the wake before it took, and how much memory was out. Every
change has a number: a reader who names the last number it has seen gets all later changes.

No I/O. Times are in Unix seconds, because users see them beside times of shims and the API.
"""

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

AGE = 3600.0
"""Seconds that are kept."""
TOTAL = 24_000
"""Most rows of all containers together, of 48 bytes each."""
MOST = 480
"""Most rows of one container."""
LEAST = 8
"""Fewest rows that each container may have, however many containers there are."""
GONE = 1000
"""Removed containers whose numbers are kept."""
BRIEF = 1.0
"""Seconds; a state between two others that lasts no longer gets no row."""
SIZES = 10.0
"""Least seconds between two rows that differ only in memory."""

STATES = ("RUNNING", "CHECKPOINTING", "STANDBY", "COLD", "RESTORING", "PAUSED", "CREATED", "STOPPED", "OTHER")
"""State names; a row has an index into this."""
_RUNNING, _STANDBY, _OTHER = STATES.index("RUNNING"), STATES.index("STANDBY"), STATES.index("OTHER")
_IN_BETWEEN = (STATES.index("CHECKPOINTING"), STATES.index("RESTORING"))
_WIDTH = 6
_SEQUENCE, _AT, _STATE, _MILLISECONDS, _WAKES, _OUT = range(_WIDTH)


@dataclass(frozen=True, slots=True)
class Container:
    """The present state of a container."""

    namespace: str
    pod: str
    name: str
    node: str
    state: str
    """The name of its state, as in `zeropod ps`."""
    since: float
    sleeps: int = 0
    wakes: int = 0
    slept_at: float = 0.0
    """When it last fell asleep, if that is known; 0 before, as in the next two."""
    woke_at: float = 0.0
    woke_ms: float = 0.0
    backend: str = ""
    """The backend that has, or had, its memory."""
    out: int = 0
    """Bytes of memory that are moved out."""
    left: int = 0
    """Bytes that stay in memory while it sleeps."""
    may_sleep: bool = True
    why: str = ""
    """Why it is awake, or not in COLD."""
    reasons: tuple[tuple[str, str, str], ...] = ()
    """All known reasons for that: kind, text and remedy."""


Row = tuple[float, int, float, int, int]
"""Start, index of the state, milliseconds of the wake before it, wakes meanwhile, bytes out."""


@dataclass(slots=True)
class Lane:
    """One container and its rows."""

    key: str
    number: int
    """Identifies it to readers: keys are containers' ids, which the metrics do not reveal either."""
    seen: Container
    revision: int = 0
    """The number of its last change."""
    _rows: "array[float]" = field(default_factory=lambda: array("d"))

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield its rows with a higher number, the oldest first. A row replaces earlier read rows that are not older
        than itself."""
        for place in range(0, len(self._rows), _WIDTH):
            row = self._rows[place : place + _WIDTH]
            if row[_SEQUENCE] > after:
                yield row[_AT], int(row[_STATE]), row[_MILLISECONDS], int(row[_WAKES]), int(row[_OUT])

    def enter(self, at: float, state: int, wake: tuple[float, int], out: int) -> None:
        """Add a row for a state entered at this time."""
        last = self._last()
        brief = last is not None and int(last[_STATE]) in _IN_BETWEEN and at - last[_AT] < BRIEF
        if last is not None and (brief or at <= last[_AT]):
            milliseconds, wakes = wake if wake[1] else (last[_MILLISECONDS], 0)
            wake, at = (milliseconds, wakes + int(last[_WAKES])), last[_AT]
            del self._rows[-_WIDTH:]
        self._rows.extend((self.revision, at, state, *wake, out))

    def resize(self, now: float, out: int) -> None:
        """Update the size of its memory in its present state."""
        last = self._last()
        if last is None or last[_OUT] == out:
            return
        if now - last[_AT] >= SIZES:
            self._rows.extend((self.revision, now, last[_STATE], 0.0, 0, out))
        else:
            self._rows[-_WIDTH + _SEQUENCE], self._rows[-_WIDTH + _OUT] = self.revision, out

    def is_awake_before(self, at: float) -> bool:
        """Return whether it is awake in its last row, and that row begins before this time."""
        last = self._last()
        return last is not None and int(last[_STATE]) == _RUNNING and last[_AT] < at

    def forget(self, before: float, most: int) -> None:
        """Drop the oldest rows: those above this number, or of states that ended before this time."""
        count = len(self._rows) // _WIDTH
        dropped = max(0, count - most)
        while dropped < count - 1 and self._rows[(dropped + 1) * _WIDTH + _AT] < before:
            dropped += 1
        del self._rows[: dropped * _WIDTH]

    def _last(self) -> "array[float] | None":
        return self._rows[-_WIDTH:] if self._rows else None


class History:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.sequence = 0
        self.problem = ""
        """What is wrong with the shown data, in a sentence; empty if nothing is."""
        self._count = 0
        self._lanes: dict[str, Lane] = {}
        self._gone: deque[tuple[int, int]] = deque(maxlen=GONE)

    @property
    def lanes(self) -> list[Lane]:
        return list(self._lanes.values())

    def gone(self, after: int) -> list[int] | None:
        """Return the numbers of lanes removed since; None if that is not known any more."""
        if after <= 0 or after > self.sequence:
            return None
        if len(self._gone) == GONE and self._gone[0][0] > after:
            return None
        return [number for sequence, number in self._gone if sequence > after]

    def note(self, key: str, seen: Container) -> None:
        """Record the present state of a container."""
        lane = self._lanes.get(key)
        if lane is not None and lane.seen == seen:
            return
        self.sequence += 1
        before = lane.seen if lane else None
        if lane is None:
            self._count += 1
            lane = self._lanes[key] = Lane(key, self._count, seen)
        lane.seen, lane.revision = seen, self.sequence
        _record(lane, before, seen, self.clock())
        lane.forget(self.clock() - AGE, max(LEAST, min(MOST, TOTAL // len(self._lanes))))

    def keep(self, keys: set[str]) -> None:
        """Remove all containers except these."""
        for key in self._lanes.keys() - keys:
            self.sequence += 1
            self._gone.append((self.sequence, self._lanes.pop(key).number))


def _record(lane: Lane, before: Container | None, seen: Container, now: float) -> None:
    state = _index(seen.state)
    wakes = seen.wakes - before.wakes if before else int(seen.woke_at > 0)
    if wakes > 0:
        # It may have slept and woken since the last update, and may sleep again already.
        if lane.is_awake_before(seen.slept_at) and seen.slept_at < seen.woke_at:
            lane.enter(seen.slept_at, _STANDBY, (0.0, 0), seen.out)
        lane.enter(seen.woke_at, _RUNNING, (seen.woke_ms, wakes), seen.out if state == _RUNNING else 0)
        if state != _RUNNING:
            lane.enter(seen.since, state, (0.0, 0), seen.out)
    elif before is None or _index(before.state) != state:
        lane.enter(seen.since, state, (0.0, 0), seen.out)
    else:
        lane.resize(now, seen.out)


def _index(state: str) -> int:
    """Return the index of a state; a container that naps counts as asleep."""
    if state == "DOZING":
        return _STANDBY
    return STATES.index(state) if state in STATES else _OTHER
