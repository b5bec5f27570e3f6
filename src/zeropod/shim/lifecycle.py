"""Where a container is, and what happens to it there: two tables, no effects.

                       idle                    lazy restore, frozen
    CREATED ──▶ RUNNING ──▶ CHECKPOINTING ──┬──────────────────────▶ STANDBY ──thaw──▶ RUNNING
                  │ ▲             │         └─ no standby ─▶ COLD ◀─────┘ standby-duration
                pause resume      │                           └─ connection, exec, … ─▶ RESTORING ──▶ RUNNING
                  ▼ │             └─ failed: back to RUNNING                               └─ failed: STOPPED
                PAUSED                       any state ── exit ──▶ STOPPED

    STANDBY ── a probe, an exec ──▶ DOZING ── done ──▶ CHECKPOINTING ──▶ STANDBY

Rules that hold here:

- To containerd every state from CHECKPOINTING to RESTORING is "running".
- CHECKPOINTING and RESTORING end by themselves within a bounded time, so what arrives there waits and is then looked up
  again in the state that came of it. Nothing is refused because of the moment.
- A container in STANDBY that has not dozed has not run one instruction since its dump: it is its image. Whatever fails
  there, the image is as good as the processes, which may be ended without a loss.
- One that has dozed is only what its processes are. It needs a new dump to become COLD, and is lost with its memory.
- What ends a container at once (SIGKILL, delete) never wakes it first.
"""

from enum import Enum, auto


class State(Enum):
    CREATED = auto()
    RUNNING = auto()
    CHECKPOINTING = auto()
    """On the way down: being dumped, being laid down for standby, or leaving standby for the disk."""
    STANDBY = auto()
    """Restored and frozen, its sockets alive, its memory in the image."""
    DOZING = auto()
    """Thawed from standby for the length of a probe or an exec, and about to be frozen again without a dump."""
    COLD = auto()
    """In the image alone."""
    RESTORING = auto()
    PAUSED = auto()
    STOPPED = auto()


class Request(Enum):
    """What containerd asks for."""

    START = auto()
    EXEC = auto()
    """An exec that nobody types into: a probe, a script."""
    SESSION = auto()
    """An exec with input or a terminal: somebody works in the container."""
    WAKE = auto()
    """`zeropod wake`."""
    SIGNAL = auto()
    """Any signal but the next two."""
    STOP = auto()
    """SIGTERM, to a container that need not notice its end (`wake-on-stop: "false"`)."""
    STOP_IN_ORDER = auto()
    """SIGTERM, to a container that is to shut down by itself (`wake-on-stop: "true"`)."""
    KILL = auto()
    """SIGKILL."""
    PAUSE = auto()
    RESUME = auto()
    UPDATE = auto()
    CHECKPOINT = auto()
    """containerd's own checkpoint request, not our sleep."""
    STATS = auto()
    PIDS = auto()
    DELETE = auto()


class Answer(Enum):
    PASS = auto()
    """Do it with runc, now."""
    WAKE = auto()
    """Wake the container first, then do it."""
    DOZE = auto()
    """Let the container run for as long as this takes, then do it."""
    WAIT = auto()
    """Look again when the state has changed."""
    END = auto()
    """Report the exit without waking the container."""
    RECORD = auto()
    """Answer from what is known, or note it for the next restore; there is no process."""
    REFUSE = auto()
    """Not possible in this state."""
    GONE = auto()
    """The process has ended: not found."""


class Event(Enum):
    """What happens without being asked for."""

    CONNECTION = auto()
    """A new connection has completed its handshake."""
    PROBE = auto()
    """A health probe has come that only the application can answer."""
    DATA = auto()
    """Data, or the end of it, has come on an established connection, inbound or outbound; or somebody types."""
    WANTED = auto()
    """A request waits that this state answers with "wake"."""
    WANTED_SHORTLY = auto()
    """A request waits that this state answers with "doze"."""
    QUIET = auto()
    """No traffic for `scaledown-duration`, and nothing that holds it awake."""
    STANDBY_OVER = auto()
    """`standby-duration` has passed."""
    PAGER_DONE = auto()
    """The last missing page is in."""
    PAGER_LOST = auto()
    """Missing pages cannot be brought any more. A pager that was merely killed is replaced; that is no event."""
    EXIT = auto()
    """The init process has ended, and nobody has ended it on purpose."""
    CONTAINERD_RESTART = auto()
    SHIM_DEATH = auto()


class Reaction(Enum):
    NOTHING = auto()
    """The kernel and the application deal with it, or it cannot happen here."""
    HOLD = auto()
    """It is kept, and acted on in the state that comes next."""
    SLEEP = auto()
    """To CHECKPOINTING."""
    WAKE = auto()
    """To RUNNING; by RESTORING, if there is no process."""
    DOZE = auto()
    """To DOZING, and back when what it is for is over; to RUNNING, if more comes of it."""
    COOL = auto()
    """To COLD: the frozen processes are ended, the image stays."""
    DROP_IMAGE = auto()
    """The image is deleted: the container has all its memory again."""
    RETRY = auto()
    """The processes, which have not run, are ended and restored once more, without lazy pages."""
    FINISH = auto()
    """To STOPPED, with the exit reported to containerd."""
    CLEAN_UP = auto()
    """containerd reports the exit and runs `delete`, which removes everything of the pod from the node."""


_COLUMNS = tuple(State)

_P, _WAKE, _DOZE, _WAIT = Answer.PASS, Answer.WAKE, Answer.DOZE, Answer.WAIT
_END, _REC, _NO, _GONE = Answer.END, Answer.RECORD, Answer.REFUSE, Answer.GONE

_ANSWERS = {
    #                      CREATED RUNNING CHECKPOINTING STANDBY DOZING COLD RESTORING PAUSED STOPPED
    Request.START: (_P, _NO, _NO, _NO, _NO, _NO, _NO, _NO, _NO),
    Request.EXEC: (_P, _P, _WAIT, _DOZE, _P, _WAKE, _WAIT, _NO, _NO),
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
    Request.STATS: (_P, _P, _REC, _P, _P, _REC, _REC, _P, _P),
    Request.PIDS: (_P, _P, _REC, _P, _P, _REC, _REC, _P, _P),
    Request.DELETE: (_P, _NO, _NO, _NO, _NO, _NO, _NO, _NO, _P),
}

_N, _HOLD, _UP = Reaction.NOTHING, Reaction.HOLD, Reaction.WAKE
_NAP, _COOL, _FIN, _CLEAN = Reaction.DOZE, Reaction.COOL, Reaction.FINISH, Reaction.CLEAN_UP

_REACTIONS = {
    #                         CREATED RUNNING CHECKPOINTING STANDBY DOZING COLD RESTORING PAUSED STOPPED
    Event.CONNECTION: (_N, _N, _HOLD, _UP, _UP, _UP, _HOLD, _N, _N),
    Event.PROBE: (_N, _N, _HOLD, _NAP, _N, _UP, _HOLD, _N, _N),
    Event.DATA: (_N, _N, _HOLD, _UP, _UP, _UP, _HOLD, _N, _N),
    Event.WANTED: (_N, _N, _HOLD, _UP, _UP, _UP, _HOLD, _N, _N),
    Event.WANTED_SHORTLY: (_N, _N, _HOLD, _NAP, _N, _UP, _HOLD, _N, _N),
    Event.QUIET: (_N, Reaction.SLEEP, _N, _N, _N, _N, _N, _N, _N),
    Event.STANDBY_OVER: (_N, _N, _N, _COOL, _N, _N, _N, _N, _N),
    Event.PAGER_DONE: (_N, Reaction.DROP_IMAGE, _N, _N, _N, _N, _HOLD, Reaction.DROP_IMAGE, _N),
    Event.PAGER_LOST: (_N, _FIN, _COOL, _COOL, _FIN, _N, Reaction.RETRY, _FIN, _N),
    Event.EXIT: (_FIN, _FIN, _FIN, _FIN, _FIN, _N, _FIN, _FIN, _N),
    Event.CONTAINERD_RESTART: (_N,) * len(State),
    Event.SHIM_DEATH: (_CLEAN,) * len(State),
}

ASLEEP = frozenset({State.CHECKPOINTING, State.STANDBY, State.DOZING, State.COLD, State.RESTORING})


def decide(state: State, request: Request) -> Answer:
    return _ANSWERS[request][_COLUMNS.index(state)]


def react(state: State, event: Event) -> Reaction:
    return _REACTIONS[event][_COLUMNS.index(state)]
