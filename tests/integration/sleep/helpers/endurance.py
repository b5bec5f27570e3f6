"""A client that comes and goes at random times for as long as it takes, and never forgives.

It knows what every answer must be. It comes when the application is awake, is being put to sleep, sleeps or is being
woken, with one connection or a few at once, and now and then on a connection that it has kept from the beginning.
"""

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.integration.sleep.helpers import server
from tests.integration.sleep.helpers.client import Session
from tests.integration.sleep.helpers.stage import ASLEEP, App

BURSTS = (1, 1, 1, 1, 2, 3, 8)
"""How many connections come at once."""

KEPT = 0.25
"""How often the kept connection is used instead of new ones."""


@dataclass(slots=True)
class Record:
    """What came of one client's visits."""

    name: str
    seed: int
    cycles: int = 0
    """Wakes, as the shim counts them."""
    checkpoints: int = 0
    checkpoint_errors: int = 0
    restore_errors: int = 0
    requests: int = 0
    failures: list[str] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    """Seconds from the connection to the answer, of requests that found the application asleep."""

    def line(self) -> str:
        latencies = sorted(self.wakes) or [math.nan]
        middle = statistics.median(latencies) * 1000
        highest = latencies[min(len(latencies) - 1, round(0.99 * len(latencies)))] * 1000
        return (
            f"{self.name}: {self.cycles} wakes, {self.requests} requests, {len(self.failures)} failures, first answers "
            f"from sleep ({len(latencies)}) p50 {middle:.0f} ms, p99 {highest:.0f} ms (seed {self.seed})"
        )


class Visitor:
    """Visits one application; `gaps` are the shortest and longest pause between two visits in seconds.

    The longest is that for an application which takes no time to fall asleep: what it has last taken is added.
    """

    def __init__(self, app: App, seed: int, gaps: tuple[float, float]) -> None:
        self.app = app
        self.record = Record(app.kind.name, seed)
        self._random = random.Random(f"{seed} {app.kind.name}")
        self._gaps = gaps
        self._count = 0
        self._falls_asleep_in = 0.0
        """Seconds."""

    def visit_until(self, cycles: int, deadline: float) -> Record:
        """Visits until the application was woken so often; `deadline` is a time.monotonic()."""
        record = self.record
        with self.app.connect() as kept:
            while record.cycles < cycles and time.monotonic() < deadline:
                shortest, longest = self._gaps
                time.sleep(self._random.uniform(shortest, longest + self._falls_asleep_in))
                asleep = self.app.state in ASLEEP
                started = time.monotonic()
                count = 0 if self._random.random() < KEPT else self._random.choice(BURSTS)
                try:
                    if count:
                        self._new(count)
                    else:
                        self._ask([kept], "the kept connection")
                except (OSError, EOFError, RuntimeError, ValueError, AssertionError) as error:
                    what = f"{count or 'the kept'} connection(s)"
                    record.failures.append(f"{what} after {record.cycles} wakes: {type(error).__name__}: {error}")
                    if len(record.failures) > 3:
                        break
                else:
                    if asleep:
                        record.wakes.append(time.monotonic() - started)
                self._look()
            try:
                self._final()
            except (OSError, EOFError, RuntimeError, AssertionError) as error:
                record.failures.append(f"at the end: {type(error).__name__}: {error}")
        self._look()
        return record

    def _look(self) -> None:
        status, record = self.app.status, self.record
        record.cycles, record.checkpoints = status.restores, status.checkpoints
        record.checkpoint_errors, record.restore_errors = status.checkpoint_errors, status.restore_errors
        self._falls_asleep_in = status.last_checkpoint_ms / 1000

    def _new(self, count: int) -> None:
        sessions: list[Session] = []
        try:
            sessions.extend(self.app.connect() for _ in range(count))
            self._ask(sessions, f"{count} new connections")
        finally:
            for session in sessions:
                session.close()

    def _ask(self, sessions: Sequence[Session], what: str) -> None:
        """One request on each connection, all sent before any answer is read."""
        self.record.requests += len(sessions)
        match self.app.kind.name:
            case "redis":
                for session in sessions:
                    session.send_redis(["INCR", "visits"])
                found = sorted(_integer(session) for session in sessions)
            case "nginx":
                for session in sessions:
                    session.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
                pages = {session.page() for session in sessions}
                assert pages == {"hello from nginx\n"}, f"{what} got {pages}"
                return
            case _:
                for session in sessions:
                    session.send(b"count\n")
                found = sorted(int(session.line().split()[0]) for session in sessions)
        expected = list(range(self._count + 1, self._count + len(sessions) + 1))
        self._count += len(sessions)
        assert found == expected, f"{what} were told {found}, not {expected}"

    def _final(self) -> None:
        """Everything that the application remembers is what its client has done."""
        match self.app.kind.name:
            case "redis":
                with self.app.connect() as session:
                    told = session.redis("GET", "visits")
                assert told == str(self._count).encode(), f"redis remembers {told!r} visits of {self._count}"
            case "python":
                port, megabytes = self.app.kind.port, int(self.app.kind.args[-1])
                with self.app.connect() as session:
                    told_hash = session.ask("memory")
                assert told_hash == server.memory(port, megabytes), "Python's memory has changed"


def _integer(session: Session) -> int:
    reply = session.redis_reply()
    assert isinstance(reply, int), f"redis says {reply!r}"
    return reply
