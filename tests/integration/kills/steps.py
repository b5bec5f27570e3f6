"""What a container goes through, as steps that are system calls of its shim; and what must hold after a kill."""

import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration import node
from tests.integration.containerd import Events
from tests.integration.patience import patient
from tests.integration.sleep.helpers import faults
from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import App, Stage
from tests.integration.standby.helpers.checker import checker
from tests.integration.standby.helpers.looks import resident

MEGABYTES = 24
OUT = 16 << 20
"""Bytes that it has in memory at most once the rest is out."""
BOUND = patient(10.0)
"""Seconds from a kill to the right answer, or to the end that is reported."""
KILLED = (137, 255)
"""As a shim's `delete` has it, and as containerd has it where that takes longer than five seconds."""
REACHED = patient(8.0)
"""Seconds until a step must have come, or does not come at all."""

STORE = {"standby-memory": "store"}
COLD = STORE | {"standby-duration": "500ms"}


@dataclass
class Round:
    """One container, with what it was asked so far."""

    app: App
    shim: int
    """Its pid."""
    events: Events
    pagers: set[int]
    """Processes of others that are named as pagers are."""
    answers: int = 0
    session: Session | None = None
    _pids: set[int] = field(default_factory=set)

    def begin(self) -> None:
        """A request, to be answered by `answer`."""
        self.session = self.app.connect()
        self.session.send(b"next\n")

    def answer(self, what: str) -> None:
        """All of its memory is right, it has forgotten nothing, and it has taken no longer than it may."""
        began = time.monotonic()
        if self.session is None:
            self.begin()
        assert self.session
        with self.session as session:
            answer = session.line()
        self.session = None
        self.answers += 1
        assert answer == str(self.answers), f"{what}: {answer}"
        assert time.monotonic() - began < BOUND, what

    def out(self) -> None:
        """Wait until it is in STANDBY, its memory in the store."""
        pid = self.app.standby(30).pid
        node.until(lambda: resident(pid) < OUT, "its memory is out")

    def remember(self) -> None:
        """Note which processes there are, to see later that none of them is left."""
        with suppress(OSError):
            self._pids |= {
                int(pid) for pid in Path(faults.freezer(self.app.status.pid), "cgroup.procs").read_text().split()
            }

    def reported(self, what: str) -> int:
        """The status with which its end is reported, once."""
        began = time.monotonic()
        events = self.events.until(self.app.id, "exit")
        (status,) = [event.message.exit_status for event in events if event.topic == "exit"]
        assert time.monotonic() - began < BOUND, what
        return int(status)

    def ended(self, what: str) -> None:
        """Its end has been reported, and nothing is left of it."""
        assert self.reported(what) in KILLED, what
        left = node.left_over(self.app.id, 5)
        assert left == [], f"{what}: {left}"
        assert not any(map(node.alive, self._pids)), f"{what}: a process is left"
        with suppress(TimeoutError):
            node.until(lambda: pagers() <= self.pagers, "no pager is left", 3)
        assert pagers() <= self.pagers, f"{what}: a pager is left"
        if self.session:
            self.session.close()


def pagers() -> set[int]:
    """All processes that are named as pagers and their keepers are, those of other containers too."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if Path(f"/proc/{name}/comm").read_text() == "zeropod-pager\n" and node.alive(int(name)):
                found.add(int(name))
    return found


class Step:
    """One of the ways from state to state. `calls`: about how many system calls its shim makes meanwhile."""

    def __init__(self, name: str, calls: int, annotations: Mapping[str, str] = STORE) -> None:
        self.name = name
        self.calls = calls
        self.annotations = annotations

    def prepare(self, one: Round) -> None:
        """Bring it to where the step begins."""

    def begin(self, one: Round) -> None:
        """Have it begin, if it does not by itself."""


class First(Step):
    """It was just started."""


class Again(Step):
    def prepare(self, one: Round) -> None:
        one.out()
        one.answer("before")


class Wake(Step):
    def prepare(self, one: Round) -> None:
        one.out()

    def begin(self, one: Round) -> None:
        one.begin()


class Dump(Step):
    def prepare(self, one: Round) -> None:
        one.app.standby(30)


class Restore(Step):
    def prepare(self, one: Round) -> None:
        one.app.cold(30)

    def begin(self, one: Round) -> None:
        one.begin()


FIRST = First("it sleeps for the first time", 2700)
AGAIN = Again("it sleeps again", 1900)
WAKE = Wake("it wakes", 28)
DUMP = Dump("it is dumped", 2600, COLD)
RESTORE = Restore("it is restored", 900, COLD)
STEPS = (FIRST, AGAIN, WAKE, DUMP, RESTORE)


@contextmanager
def round_of(stage: Stage, step: Step) -> Iterator[Round]:
    """A container of its own."""
    own = Stage(stage.client, stage.kubelet)
    with own.stack:
        before = pagers()
        events = own.stack.enter_context(stage.client.events())
        app = own.task(checker(MEGABYTES), annotations=step.annotations)
        one = Round(app, faults.shim_pid(app), events, before)
        try:
            yield one
        finally:
            if one.session:
                one.session.close()


def points(calls: int, count: int) -> list[int]:
    """So many of the system calls, evenly spread over all of them."""
    return [max(1, round(calls * (number + 0.5) / count)) for number in range(count)]


def kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
