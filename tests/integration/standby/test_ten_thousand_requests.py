"""Ten thousand requests without keep-alive over two hundred sleeps and wakes: not one fails.

Slow, about two minutes: three applications sleep seventy times each, side by side. Each has eight clients, which come
in rounds with pauses of random length between them: as long as it takes to fall asleep, shorter or longer, so that
rounds begin while it is awake, falls asleep, or sleeps. Prints what it has measured, on a machine that does all of this
at once.
"""

import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from tests.integration.patience import patient
from tests.integration.sleep.helpers.stage import KINDS, App, Stage

CLIENTS = 8
REQUESTS = 10_000
CYCLES = 200
SEED = 10_000
SCALEDOWN = "150ms"
PAUSES = (patient(0.1), patient(0.8))
"""Seconds between rounds."""

GAPS = (0.0, 0.01)
"""Seconds between one client's requests in a round."""

PATIENCE = patient(200.0)


@dataclass(slots=True)
class Herd:
    """Eight clients of one application."""

    app: App
    requests: int
    """How many it has to make at least."""
    cycles: int
    made: int = 0
    woken: int = 0
    failures: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Seconds from a client's connect to its answer, at the beginning of a round."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def graze(self) -> "Herd":
        chance = random.Random(f"{SEED} {self.app.kind.name}")
        deadline = time.monotonic() + PATIENCE
        with ThreadPoolExecutor(CLIENTS) as clients:
            while (self.made < self.requests or self.woken < self.cycles) and not self.failures:
                if time.monotonic() > deadline:
                    self.failures.append(f"only {self.made} requests and {self.woken} wakes in {PATIENCE} s")
                    break
                time.sleep(chance.uniform(*PAUSES))
                list(clients.map(self._round, [random.Random(chance.random()) for _ in range(CLIENTS)]))
                self.woken = self.app.status.restores
        return self

    def _round(self, chance: random.Random) -> None:
        for number in range(max(4, self.requests // self.cycles // CLIENTS)):
            time.sleep(chance.uniform(*GAPS))
            began = time.monotonic()
            try:
                answer = self._ask()
            except (OSError, EOFError, RuntimeError, ValueError) as error:
                answer = f"{type(error).__name__}: {error}"
            took = time.monotonic() - began
            with self._lock:
                self.made += 1
                if not number:
                    self.first.append(took)
                if answer:
                    self.failures.append(f"request {self.made} after {self.woken} wakes: {answer}")

    def _ask(self) -> str:
        """A request on a connection of its own; what is wrong with the answer."""
        with self.app.connect() as session:
            match self.app.kind.name:
                case "redis":
                    answer = session.redis("INCR", "requests")
                    return "" if isinstance(answer, int) else f"redis says {answer!r}"
                case "nginx":
                    page = session.get()
                    return "" if page == "hello from nginx\n" else f"nginx says {page!r}"
                case _:
                    line = session.ask("count")
                    return "" if line.endswith(" 1") else f"Python says {line!r}"

    def remembered(self) -> int:
        """How many requests the application has counted; nginx counts none."""
        with self.app.connect() as session:
            match self.app.kind.name:
                case "redis":
                    answer = session.redis("GET", "requests")
                    return int(answer) if isinstance(answer, bytes) else -1
                case "nginx":
                    return self.made
                case _:
                    return int(session.ask("count").split()[0]) - 1

    def line(self) -> str:
        ordered = sorted(self.first)
        middle, last = statistics.median(ordered) * 1000, ordered[round(0.99 * (len(ordered) - 1))] * 1000
        return (
            f"{self.app.kind.name}: {self.made} requests, {self.woken} wakes, {len(self.failures)} failures, first "
            f"answers of a round p50 {middle:.1f} ms, p99 {last:.0f} ms (seed {SEED})"
        )


@pytest.mark.timeout(300)
def test_no_request_fails_in_ten_thousand_over_two_hundred_wakes(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    requests, cycles = (-(-whole // len(KINDS)) for whole in (REQUESTS, CYCLES))
    herds = [Herd(stage.app("cri", kind, SCALEDOWN), requests, cycles) for kind in KINDS.values()]
    with ThreadPoolExecutor(len(herds)) as threads:
        list(threads.map(Herd.graze, herds))
    with capsys.disabled():
        print()
        for herd in herds:
            print(f"  {herd.line()}")
    assert [failure for herd in herds for failure in herd.failures] == []
    assert sum(herd.made for herd in herds) >= REQUESTS
    assert sum(herd.woken for herd in herds) >= CYCLES
    assert [herd.remembered() for herd in herds] == [herd.made for herd in herds]
    statuses = [herd.app.status for herd in herds]
    assert all(status.checkpoint_errors == status.restore_errors == 0 for status in statuses)
