"""Decide whether a container is idle, from a snapshot of one moment.

Called by the monitor before an attempt, and by the last check before a freeze, the end of a nap, a dump and a restart.
Each fills in what it has examined; all other fields have defaults that keep nothing awake.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Explanation, Reason


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The data about a container at one moment."""

    now: int = 0
    """Nanoseconds of CLOCK_MONOTONIC."""
    wall_clock: float = 0.0
    """`now` in seconds since 1970, for texts."""
    pending: Explanation | None = None
    """A connection, data or request that is not handled yet; or how a client used it during a nap."""
    state: State = State.RUNNING
    inhibitors: Sequence[Explanation] = ()
    is_wanted: bool = False
    """Whether a request waits for it."""
    listens: bool = True
    """Whether it listens, so that a connection can wake it."""
    last_activity: int = 0
    """Time of the last new connection or data, on the clock of `now`; 0 means never."""
    idle_threshold: float = 0.0
    """Seconds without activity after which it is idle."""
    is_unanswered: bool = False
    """Whether a client may be waiting for an answer."""
    rests: bool = True
    """Whether it has used little CPU for a while, and so is not working on an answer."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing keeps it awake."""


@dataclass(frozen=True, slots=True)
class Awake:
    """Something keeps it awake."""

    until: int | None
    """Earliest time at which it may be idle, on the clock of `Snapshot.now`; equal to `now` if that can be at any
    moment. None if only a change of the state or of the inhibitors can make it idle; that wakes the monitor."""
    why: Explanation


def decide(seen: Snapshot) -> Idle | Awake:
    """Return whether a container is idle, or the first reason why not, in the order below."""
    if seen.pending:
        return Awake(seen.now, seen.pending)
    if seen.inhibitors:
        return Awake(None, seen.inhibitors[0])
    if seen.state is State.PAUSED:
        return Awake(None, Reason.PAUSED.because())
    if seen.state not in (State.RUNNING, State.CHECKPOINTING):
        return Awake(None, Reason.STATE.because(seen.state.name.lower()))
    if seen.is_wanted:
        return Awake(seen.now, Reason.REQUESTED.because())
    if not seen.listens:
        return Awake(seen.now, Reason.NOT_LISTENING.because())
    idle_at = seen.last_activity + round(seen.idle_threshold * 1e9)
    if idle_at > seen.now:
        last = datetime.fromtimestamp(seen.wall_clock - (seen.now - seen.last_activity) / 1e9, UTC)
        return Awake(idle_at, Reason.RECENTLY_ACTIVE.because(f"{last:%H:%M:%S}", seen.idle_threshold))
    if seen.is_unanswered and not seen.rests:
        return Awake(seen.now, Reason.ANSWER_DUE.because())
    return Idle()
