"""The states of a container, the events that change them and the actions that follow, as two tables.

    CREATED ─start─▶ RUNNING ─idle─▶ CHECKPOINTING ─frozen─▶ STANDBY ─standby-duration─▶ CHECKPOINTING ─dumped─▶ COLD
                       ▲ ▲ │              │                   │   │                                              │
                  resume │ pause          └── not idle ───────┘   └─ probe, exec ─▶ DOZING                        │
                       │ │ ▼                  or failed: thaw                         │ over: frozen again        │
                     PAUSED└──────────────────────────────────────────────────────────┘ or woken                 │
                         └──────────────────────────────── RESTORING ◀──────────── connection, data, exec … ─────┘

Rule 1: a state changes by `Life.happen` and nowhere else. What is not in the table raises IllegalTransition.
Rule 2: an action returns the event that comes of it, so the last action of a row leads to the next row.
Rule 3: to containerd every state from CHECKPOINTING to RESTORING is "running".
Rule 4: CHECKPOINTING and RESTORING end by themselves within a bounded time. A request that arrives there waits, and is
decided in the state that follows: none is refused for arriving at the wrong moment.
Rule 5: what ends a container at once (SIGKILL, delete) never wakes it first.
Rule 6: the processes exist in every state but COLD and STOPPED. Whatever fails there, they are thawed and stay awake.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

import trio

from zeropod.lifecycle.reasons import Explanation

if TYPE_CHECKING:
    from zeropod.lifecycle.departure import Departure


class State(Enum):
    CREATED = auto()
    RUNNING = auto()
    CHECKPOINTING = auto()
    """Being frozen, frozen again after a nap, or dumped on the way from STANDBY to COLD."""
    STANDBY = auto()
    """Frozen in place. Its memory moves out; everything else stays in the kernel."""
    DOZING = auto()
    """Thawed from STANDBY for the length of a probe or an exec, and about to be frozen again."""
    COLD = auto()
    """Ended, and on disk."""
    RESTORING = auto()
    """On the way from COLD to RUNNING."""
    PAUSED = auto()
    STOPPED = auto()


class Event(Enum):
    """What changes the state of a container."""

    START = auto()
    """containerd has started it."""
    START_ASLEEP = auto()
    """containerd has started it, which came back asleep: it is frozen, and has not run."""
    PAUSE = auto()
    RESUME = auto()
    EXIT = auto()
    """Its init process has ended, or its exit is reported although it has no process."""
    QUIET = auto()
    """No traffic for `scaledown-duration`, and nothing that inhibits sleep; or sleep was requested."""
    FROZEN = auto()
    """All its processes are frozen, and no connection, data or request has arrived until then."""
    NOT_IDLE = auto()
    """It was in use after all, which was noticed while it was being frozen or dumped."""
    FAILED = auto()
    """It could not be frozen, dumped or watched."""
    CONNECTION = auto()
    """A new connection has completed its handshake."""
    DATA = auto()
    """An open file of its processes has data, end of file or an error; or its stdin has input."""
    PROBE = auto()
    """A health probe has arrived that only the application can answer."""
    WANTED = auto()
    """A request waits that needs the container awake."""
    WANTED_SHORTLY = auto()
    """A request waits that needs only a nap."""
    NAP_OVER = auto()
    """The probe or exec that it was thawed for has ended."""
    STANDBY_OVER = auto()
    """`standby-duration` has passed, too much of its memory stays, or it is to leave; nothing stands against COLD."""
    LEAVE = auto()
    """It is to be exported, to come back elsewhere or later."""
    KEPT = auto()
    """It cannot be dumped, and nothing was changed yet: it stays in STANDBY."""
    DUMPED = auto()
    """It is in an image on disk, and its processes have ended."""
    RESTORED = auto()


class Action(Enum):
    """The steps of a row, which `actions` performs in order."""

    AWAIT_IDLE = auto()
    """Wait until it may sleep. Returns QUIET."""
    BACK_OFF = auto()
    """Log why it stays awake, and wait before the next attempt."""
    FREEZE = auto()
    """Freeze and watch it. Returns FROZEN, NOT_IDLE or FAILED."""
    MOVE_OUT = auto()
    """Start to move its memory out, in the background."""
    AWAIT_ARRIVAL = auto()
    """Wait for an event that wakes it, makes it nap or sends it to COLD. Returns the event."""
    THAW = auto()
    """Let it run, and stop watching it."""
    NAP = auto()
    """Let it run for a probe or an exec. Returns NAP_OVER, CONNECTION, WANTED or FAILED."""
    REFREEZE = auto()
    """Freeze it again after a nap. Returns FROZEN, PROBE, NOT_IDLE or FAILED."""
    DUMP = auto()
    """Returns DUMPED, KEPT, FAILED, or what has come meanwhile."""
    BRING_TO_REST = auto()
    """Move the memory of a container that runs to files, piece by piece, and freeze it. Returns FROZEN or FAILED."""
    EXPORT = auto()
    """Make an export of what is on disk."""
    RESTORE = auto()
    """Restore it from disk. Returns RESTORED. If that fails, its exit is reported."""


@dataclass(frozen=True, slots=True)
class Row:
    """The next state after an event, and the actions that follow."""

    next: State
    actions: tuple[Action, ...] = ()


def _rows(states: Iterable[State], events: Iterable[Event], row: Row) -> dict[tuple[State, Event], Row]:
    wanted = tuple(events)
    return {(state, event): row for state in states for event in wanted}


_ARRIVALS = (Event.CONNECTION, Event.DATA, Event.WANTED)
_SHORT = (Event.PROBE, Event.WANTED_SHORTLY)
_AWAKE = Row(State.RUNNING, (Action.THAW, Action.AWAIT_IDLE))
_FAILED = Row(State.RUNNING, (Action.THAW, Action.BACK_OFF, Action.AWAIT_IDLE))

TRANSITIONS: dict[tuple[State, Event], Row] = {
    (State.CREATED, Event.START): Row(State.RUNNING),
    (State.CREATED, Event.START_ASLEEP): Row(State.CHECKPOINTING, (Action.FREEZE,)),
    (State.RUNNING, Event.PAUSE): Row(State.PAUSED),
    (State.PAUSED, Event.RESUME): Row(State.RUNNING),
    **_rows((state for state in State if state is not State.STOPPED), (Event.EXIT,), Row(State.STOPPED)),
    # Down.
    (State.RUNNING, Event.QUIET): Row(State.CHECKPOINTING, (Action.FREEZE,)),
    (State.RUNNING, Event.LEAVE): Row(State.CHECKPOINTING, (Action.BRING_TO_REST,)),
    (State.CHECKPOINTING, Event.FROZEN): Row(State.STANDBY, (Action.MOVE_OUT, Action.AWAIT_ARRIVAL)),
    (State.CHECKPOINTING, Event.NOT_IDLE): _FAILED,
    (State.CHECKPOINTING, Event.FAILED): _FAILED,
    # In STANDBY.
    **_rows((State.STANDBY, State.CHECKPOINTING), _ARRIVALS, _AWAKE),
    **_rows((State.STANDBY, State.CHECKPOINTING), _SHORT, Row(State.DOZING, (Action.NAP,))),
    (State.STANDBY, Event.FAILED): _FAILED,
    (State.STANDBY, Event.STANDBY_OVER): Row(State.CHECKPOINTING, (Action.DUMP,)),
    # A nap.
    (State.DOZING, Event.NAP_OVER): Row(State.CHECKPOINTING, (Action.REFREEZE,)),
    **_rows((State.DOZING,), (Event.CONNECTION, Event.WANTED), _AWAKE),
    (State.DOZING, Event.FAILED): _FAILED,
    # On disk.
    (State.CHECKPOINTING, Event.KEPT): Row(State.STANDBY, (Action.AWAIT_ARRIVAL,)),
    (State.CHECKPOINTING, Event.DUMPED): Row(State.COLD, (Action.AWAIT_ARRIVAL,)),
    (State.COLD, Event.LEAVE): Row(State.COLD, (Action.EXPORT, Action.AWAIT_ARRIVAL)),
    **_rows((State.COLD,), (*_ARRIVALS, *_SHORT, Event.FAILED), Row(State.RESTORING, (Action.RESTORE,))),
    (State.RESTORING, Event.RESTORED): Row(State.RUNNING, (Action.AWAIT_IDLE,)),
}
"""All changes of state."""


class IllegalTransition(Exception):  # noqa: N818 - the state machine's own word
    """An event occurred in a state that has no row for it, which is a bug in zeropod."""


def transition(state: State, event: Event) -> Row:
    """Return the row for an event in a state. Raises IllegalTransition if there is none."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event.name} cannot happen in {state.name}") from None


class Request(Enum):
    """What containerd or `zeropod` asks for."""

    START = auto()
    EXEC = auto()
    """An exec without input: a probe, a script."""
    SESSION = auto()
    """An exec with input or a terminal: a person works in the container."""
    WAKE = auto()
    """`zeropod wake`."""
    SIGNAL = auto()
    """Any signal but the next two."""
    STOP = auto()
    """A stop signal to a container that need not shut down in order (`wake-on-stop: "false"`)."""
    STOP_IN_ORDER = auto()
    """A stop signal to a container that shuts down in order (`wake-on-stop: "true"`)."""
    KILL = auto()
    """SIGKILL."""
    PAUSE = auto()
    RESUME = auto()
    UPDATE = auto()
    CHECKPOINT = auto()
    """containerd's own checkpoint request, not a sleep."""
    STATS = auto()
    PIDS = auto()
    DELETE = auto()


class Answer(Enum):
    PASS = auto()
    """Carry it out with runc, now."""
    WAKE = auto()
    """Wake the container first, then carry it out."""
    NAP = auto()
    """Thaw the container for a nap, and carry it out meanwhile."""
    WAIT = auto()
    """Decide again when the state has changed."""
    END = auto()
    """Report the exit without waking the container."""
    RECORD = auto()
    """It has no process: answer from recorded data, or record the change for the next restore."""
    REFUSE = auto()
    """Fail: not possible in this state."""
    GONE = auto()
    """Fail with "not found": the process has ended."""


_P, _WAKE, _NAP, _WAIT = Answer.PASS, Answer.WAKE, Answer.NAP, Answer.WAIT
_END, _REC, _NO, _GONE = Answer.END, Answer.RECORD, Answer.REFUSE, Answer.GONE

ANSWERS = {
    #                      CREATED RUNNING CHECKPOINTING STANDBY DOZING COLD RESTORING PAUSED STOPPED
    Request.START: (_P, _NO, _NO, _NO, _NO, _NO, _NO, _NO, _NO),
    Request.EXEC: (_P, _P, _WAIT, _NAP, _P, _WAKE, _WAIT, _NO, _NO),
    Request.SESSION: (_P, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _NO, _NO),
    Request.WAKE: (_NO, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _NO, _GONE),
    Request.SIGNAL: (_P, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _P, _GONE),
    Request.STOP: (_P, _P, _WAIT, _WAKE, _WAKE, _END, _WAIT, _P, _GONE),
    Request.STOP_IN_ORDER: (_P, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _P, _GONE),
    Request.KILL: (_P, _P, _WAIT, _P, _P, _END, _WAIT, _P, _GONE),
    Request.PAUSE: (_NO, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _NO, _NO),
    Request.RESUME: (_NO, _NO, _NO, _NO, _NO, _NO, _NO, _P, _NO),
    Request.UPDATE: (_P, _P, _WAIT, _P, _P, _REC, _WAIT, _P, _NO),
    Request.CHECKPOINT: (_NO, _P, _WAIT, _WAKE, _WAKE, _WAKE, _WAIT, _P, _NO),
    Request.STATS: (_P, _P, _P, _P, _P, _REC, _REC, _P, _P),
    Request.PIDS: (_P, _P, _P, _P, _P, _REC, _REC, _P, _P),
    Request.DELETE: (_P, _NO, _NO, _NO, _NO, _NO, _NO, _NO, _P),
}
"""The answer to each request, by state, in the order of `State`."""

ASLEEP = frozenset({State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD, State.RESTORING})


def decide(state: State, request: Request) -> Answer:
    """Return the answer to a request in this state."""
    return ANSWERS[request][tuple(State).index(state)]


class Life:
    """The mutable part of a container's life: its state, since when, and what inhibits its sleep."""

    def __init__(self) -> None:
        self.state = State.CREATED
        self.since_ns = time.time_ns()
        self.tell: Callable[[], None] = lambda: None
        """Called at every change that watchers of the shim should see."""
        self._explanation: Explanation | None = None
        self._failure: Explanation | None = None
        self.pretended: State | None = None
        """With `dry-run`, the state that it would be in otherwise; None if that is its real state."""
        self.wake_wanted = trio.Event()
        """Set to wake the sleeping container."""
        self.nap_wanted = trio.Event()
        """Set to make the container in STANDBY nap."""
        self.sleep_wanted = trio.Event()
        """Set where it is to sleep without waiting for its idle time; until the next attempt has ended."""
        self.departure: Departure | None = None
        """Its attempt to leave, from when that is asked for; None without one, and after one that came to nothing."""
        self.leave_wanted = trio.Event()
        """Set while there is one."""
        self._changed = trio.Event()
        self._inhibitors: list[Explanation] = []

    @property
    def explanation(self) -> Explanation | None:
        """Why it is not asleep, or not in COLD."""
        return self._explanation

    @explanation.setter
    def explanation(self, explanation: Explanation | None) -> None:
        if explanation != self._explanation:
            self._explanation = explanation
            self._notify()

    @property
    def why(self) -> str:
        """Return the explanation in words for `zeropod ps`; empty if there is nothing to say."""
        return str(self._explanation or "")

    @property
    def failure(self) -> Explanation | None:
        """The last failure."""
        return self._failure

    @failure.setter
    def failure(self, explanation: Explanation) -> None:
        self._failure = explanation
        self.tell()

    @property
    def message(self) -> str:
        """The last failure in words; empty if there was none."""
        return str(self._failure or "")

    def happen(self, event: Event) -> tuple[Action, ...]:
        """Enter the state that follows from an event, and return the actions to perform. Raises IllegalTransition."""
        row = transition(self.state, event)
        if self.state is State.RUNNING and row.next is State.CHECKPOINTING:
            self.wake_wanted, self.nap_wanted = trio.Event(), trio.Event()
        if row.next is State.DOZING:
            self.nap_wanted = trio.Event()
        self.state = row.next
        self.since_ns = time.time_ns()
        if row.next in (State.STANDBY, State.COLD):
            self._explanation = None
        self._notify()
        return row.actions

    def leave(self, departure: "Departure") -> None:
        """Ask it to leave."""
        self.departure = departure
        self.leave_wanted.set()
        self._notify()

    @property
    def leaves_awake(self) -> bool:
        """Whether it is leaving, and ran when that began: what comes for it meanwhile does not stop it."""
        return self.departure is not None and self.departure.was_awake

    def stay(self) -> None:
        """The attempt to leave is over, and came to nothing."""
        self.departure = None
        self.leave_wanted = trio.Event()
        self._notify()

    def end_attempt(self) -> None:
        """Release callers that wait for an attempt to sleep, whatever its outcome."""
        self.sleep_wanted = trio.Event()
        self._notify()

    @contextmanager
    def inhibit(self, why: Explanation) -> Iterator[None]:
        """Keep the container from falling asleep inside the block. Does not wake it."""
        self._inhibitors.append(why)
        self._notify()
        try:
            yield
        finally:
            self._inhibitors.remove(why)
            self._notify()

    def inhibit_for_good(self, why: Explanation) -> None:
        """Keep the container from falling asleep from now on."""
        if why not in self._inhibitors:
            self._inhibitors.append(why)
            self._notify()

    @property
    def inhibitors(self) -> tuple[Explanation, ...]:
        """All that inhibits its sleep, the oldest first."""
        return tuple(self._inhibitors)

    @property
    def inhibited_by(self) -> str:
        """The oldest inhibitor in words; empty if there is none."""
        return str(self._inhibitors[0]) if self._inhibitors else ""

    async def inhibited(self) -> None:
        """Return when something inhibits its sleep."""
        while not self._inhibitors:
            await self.changed()

    async def changed(self) -> None:
        """Return at the next change of the state, of what inhibits its sleep or of the explanation."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.tell()
