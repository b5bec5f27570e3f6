"""What has happened to containers of late, in memory of a bounded size; for a page that asks what is new.

Each container has rows: when it entered a state, what the wake took that led there, and how much memory was out. Every
change has a number, so that a reader who knows the number of the last one that it has seen gets what came after it.

Without I/O. Times are in Unix seconds, since people read them beside what shims and the API tell.
"""

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

AGE = 3600.0
"""Seconds that are remembered."""
TOTAL = 24_000
"""Rows of all containers together, if there are many: 48 bytes each."""
MOST = 480
"""Rows of one container."""
LEAST = 8
"""Rows that each has, however many containers there are."""
GONE = 1000
"""Containers that have gone, whose numbers are remembered."""
BRIEF = 1.0
"""Seconds; a state in between that lasts no longer has no row of its own."""
SIZES = 10.0
"""Seconds between two rows that differ in memory alone."""

STATES = ("RUNNING", "CHECKPOINTING", "STANDBY", "COLD", "RESTORING", "PAUSED", "CREATED", "STOPPED", "OTHER")
"""A row has the index of its state."""
_RUNNING, _STANDBY, _OTHER = STATES.index("RUNNING"), STATES.index("STANDBY"), STATES.index("OTHER")
_IN_BETWEEN = (STATES.index("CHECKPOINTING"), STATES.index("RESTORING"))
_WIDTH = 6
_SEQUENCE, _AT, _STATE, _MILLISECONDS, _WAKES, _OUT = range(_WIDTH)


@dataclass(frozen=True, slots=True)
class Container:
    """What is known of a container now."""

    namespace: str
    pod: str
    name: str
    node: str
    state: str
    """As `zeropod ps` has it."""
    since: float
    sleeps: int = 0
    wakes: int = 0
    slept_at: float = 0.0
    """When it fell asleep last, where that is known; 0 before the first time, like the next two."""
    woke_at: float = 0.0
    woke_ms: float = 0.0
    backend: str = ""
    """Where its memory is, or was."""
    out: int = 0
    """Bytes that are not in memory."""
    left: int = 0
    """Bytes that stay in memory while it sleeps."""
    may_sleep: bool = True
    why: str = ""
    """Why it is awake, or sleeps no deeper."""
    reasons: tuple[tuple[str, str, str], ...] = ()
    """Kind, text and remedy of all that is known of that."""


Row = tuple[float, int, float, int, int]
"""Since when, index of the state, milliseconds of the wake that led there, wakes meanwhile, bytes out."""


@dataclass(slots=True)
class Lane:
    """One container, and what has happened to it."""

    key: str
    number: int
    """By which readers know it: keys are ids, which metrics do not tell."""
    seen: Container
    revision: int = 0
    """Number of its last change."""
    _rows: "array[float]" = field(default_factory=lambda: array("d"))

    def rows(self, after: int = 0) -> Iterator[Row]:
        """Yield its rows with a higher number, the oldest first.

        A row replaces all that are not older than itself, which may have been read already.
        """
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
        """Note the size of its memory in the state that it is in already."""
        last = self._last()
        if last is None or last[_OUT] == out:
            return
        if now - last[_AT] >= SIZES:
            self._rows.extend((self.revision, now, last[_STATE], 0.0, 0, out))
        else:
            self._rows[-_WIDTH + _SEQUENCE], self._rows[-_WIDTH + _OUT] = self.revision, out

    def is_awake_before(self, at: float) -> bool:
        """Whether it is awake in its last row, which begins before that time."""
        last = self._last()
        return last is not None and int(last[_STATE]) == _RUNNING and last[_AT] < at

    def forget(self, before: float, most: int) -> None:
        """Drop the oldest rows: more than so many, or of a state that has ended before that time."""
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
        """What is wrong with what is shown, in a sentence; empty if nothing is."""
        self._count = 0
        self._lanes: dict[str, Lane] = {}
        self._gone: deque[tuple[int, int]] = deque(maxlen=GONE)

    @property
    def lanes(self) -> list[Lane]:
        return list(self._lanes.values())

    def gone(self, after: int) -> list[int] | None:
        """Return the numbers of the lanes that have gone since; None if that is not known any more."""
        if after <= 0 or after > self.sequence:
            return None
        if len(self._gone) == GONE and self._gone[0][0] > after:
            return None
        return [number for sequence, number in self._gone if sequence > after]

    def note(self, key: str, seen: Container) -> None:
        """Take what is known of a container now."""
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
        """Drop all containers but these."""
        for key in self._lanes.keys() - keys:
            self.sequence += 1
            self._gone.append((self.sequence, self._lanes.pop(key).number))


def _record(lane: Lane, before: Container | None, seen: Container, now: float) -> None:
    state = _index(seen.state)
    wakes = seen.wakes - before.wakes if before else int(seen.woke_at > 0)
    if wakes > 0:
        # It may have slept and woken since it was looked at, and may be asleep again already.
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
    """Return the index of a state; a container that runs for a probe alone counts as asleep."""
    if state == "DOZING":
        return _STANDBY
    return STATES.index(state) if state in STATES else _OTHER
