"""Histories as a node or a cluster may have them, the same ones every time."""

import random
from dataclasses import dataclass, replace

from zeropod.manager.page.history import Container, History

NOW = 1_790_000_000.0
"""A moment in September 2026, in Unix seconds."""
MEBIBYTE = 1 << 20

APPLICATIONS = (
    ("shop", "storefront", "web", 64), ("shop", "cart", "app", 180), ("shop", "postgres", "db", 340),
    ("blog", "wordpress", "php", 120), ("blog", "mysql", "mysql", 410), ("ci", "runner", "agent", 90),
    ("ci", "registry-cache", "registry", 48), ("data", "jupyter", "notebook", 700), ("data", "redis", "redis", 350),
    ("internal", "wiki", "wiki", 210), ("internal", "grafana", "grafana", 130), ("preview", "pr", "web", 75),
)  # fmt: skip
REASONS = (
    "last active at … UTC, sleeps … s after that",
    "last active at … UTC, sleeps … s after that",
    "exec … is running",
    "it is working on a request",
    "nothing in it listens on a TCP port",
    "a connection came at the last moment",
)


@dataclass(slots=True)
class Clock:
    """A time of day that a test sets."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def history(count: int, clock: Clock, *, seconds: float = 3600.0, nodes: int = 0, seed: int = 7) -> History:
    """Return what so many containers did in the seconds before now."""
    chance, made, end = random.Random(seed), History(clock), clock.now
    plans = sorted(step for number in range(count) for step in _plan(number, chance, end, seconds, nodes))
    for at, key, container in plans:
        clock.now = at
        made.note(key, container)
    clock.now = end
    return made


def _plan(
    number: int, chance: random.Random, end: float, seconds: float, nodes: int
) -> list[tuple[float, str, Container]]:
    namespace, pod, name, megabytes = APPLICATIONS[number % len(APPLICATIONS)]
    suffix = f"{chance.getrandbits(40):010x}-{chance.getrandbits(20):05x}"
    node = f"worker-{number % nodes + 1}" if nodes else ""
    begin = end - chance.uniform(0.3, 1.2) * seconds
    seen = Container(namespace, f"{pod}-{suffix}", name, node, "RUNNING", begin, why=REASONS[0])
    if number % 11 == 10:
        seen = replace(seen, may_sleep=False, why="it uses the host's network")
        return [(max(begin, end - seconds), f"{number}", seen)]
    steps, at, busy = [(begin, f"{number}", seen)], begin, chance.choice((8, 20, 45, 240))
    cold = number % 5 == 4
    while True:
        at += chance.expovariate(1 / busy) + 4
        if at > end:
            break
        out = int(megabytes * chance.uniform(0.85, 0.99) * MEBIBYTE)
        seen = replace(
            seen, state="STANDBY", since=at, sleeps=seen.sleeps + 1, out=out, left=3 * MEBIBYTE, why="",
            backend="store" if number % 3 else "swap",
        )  # fmt: skip
        steps.append((at, f"{number}", seen))
        if cold and at + 120 < end:
            at += 120
            seen = replace(seen, state="COLD", since=at, backend="image", left=0)
            steps.append((at, f"{number}", seen))
        at += chance.expovariate(1 / chance.choice((60, 200, 700)))
        if at > end:
            break
        took = chance.lognormvariate(5.0, 0.3) if seen.state == "COLD" else chance.lognormvariate(0.5, 0.6)
        seen = replace(
            seen, state="RUNNING", since=at, wakes=seen.wakes + 1, woke_at=at, woke_ms=took, left=0,
            out=int(out * chance.choice((0, 0, 0.3))), why=chance.choice(REASONS),
        )  # fmt: skip
        steps.append((at, f"{number}", seen))
    return steps
