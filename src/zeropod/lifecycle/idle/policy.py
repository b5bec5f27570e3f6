"""Whether a container is idle: one decision, from what was seen of it at one moment.

The monitor asks before an attempt, and so do the last look before a freeze, the end of a nap, a dump and a restart.
They differ in what they have looked at: the rest stays at its default, which keeps nothing awake. What was looked at
means the same to all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Explanation, Reason


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was seen of a container at one moment."""

    now: int = 0
    """Nanoseconds of CLOCK_MONOTONIC."""
    wall_clock: float = 0.0
    """`now` in seconds since 1970, for the words."""
    pending: Explanation | None = None
    """What has come for it, or from it, and was not dealt with; or how it was used when it was let run for a probe."""
    state: State = State.RUNNING
    inhibitors: Sequence[Explanation] = ()
    is_wanted: bool = False
    """Whether a request waits for it."""
    listens: bool = True
    """Whether it can be connected to, and so be woken."""
    last_activity: int = 0
    """When a connection came or data went either way, as `now` counts; 0 is never."""
    idle_threshold: float = 0.0
    """Seconds without activity after which it is idle."""
    is_unanswered: bool = False
    """Whether a client may be waiting for an answer."""
    rests: bool = True
    """Whether it was seen to do nothing for a while, and so is not working on an answer."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Nothing keeps it awake."""


@dataclass(frozen=True, slots=True)
class Awake:
    """Something keeps it awake."""

    until: int | None
    """When it may be idle at the earliest, as `Snapshot.now` counts: that very moment for what may be over at any one;
    None for what ends with a change of the state or of the inhibitors, which is told."""
    why: Explanation


def decide(seen: Snapshot) -> Idle | Awake:
    """Return whether a container is idle; of several reasons why not, the first in this order."""
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
