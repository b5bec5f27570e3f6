"""Wakes, to the first byte: from STANDBY and COLD, on a new connection and on one that was open all the time.

The peer of a wake from STANDBY is the same request to the same program awake, on runc's shim: their difference is what
the wake costs. That of a wake from COLD is what `runc restore` takes for the same program, eagerly, as a command,
without a request and without anybody who notices that one has come. Samples are taken in turns, so that what the
machine does meanwhile is the same for both.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.applications import JVM, NGINX, PYTHON, PYTHON_350M, REDIS, REDIS_2G, REDIS_350M, Application
from tests.bench.containers import (
    COLD,
    OURS,
    PEER,
    PREFIX,
    STANDBY,
    connection,
    entered,
    first_answer,
    running,
    started,
)
from tests.bench.figures import Figure, Goal
from tests.bench.restore import Restorer
from tests.bench.scale import Scale
from tests.bench.swap import swap
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import until, until_state

from zeropod.rpc.messages.status_pb2 import State

AWAKE = "the same request, awake"
RESTORE = "runc restore, eager"
START = "start to first byte, runc's shim"
REST = 0.05
"""Seconds asleep before somebody comes: nobody wakes it in the very moment in which it falls asleep."""
LONG = 120.0
"""Seconds for two gigabytes to fall asleep on a busy machine."""

SMALL = (Goal("ours", 1.5), Goal("p99", 5.0))
APPLICATIONS: dict[Application, tuple[Goal, ...]] = {
    NGINX: SMALL,
    REDIS: SMALL,
    PYTHON: (Goal("ours", 5.0),),
    PYTHON_350M: (),
    JVM: (Goal("ours", 10.0),),
    REDIS_350M: (Goal("ours", 5.0),),
    REDIS_2G: (Goal("ours", 5.0),),
}
"""With the goals of its wake from STANDBY on a new connection."""
QUICK = (NGINX, REDIS, REDIS_350M)
RUNS = {NGINX: 100, REDIS: 100, REDIS_2G: 8}
"""Wakes from STANDBY, of either kind."""

Pairs = tuple[tuple[Application, Application, float], ...]
"""A large one, a small one, and how many times as long the large one's wake may take at most."""


def standby(client: Containerd, scale: Scale) -> list[Figure]:
    figures = []
    for backend in ("store", "swap"):
        with swap(6 << 30) if backend == "swap" else nullcontext():
            for application in scale.of(APPLICATIONS, QUICK):
                figures += _standby(client, application, backend, scale.runs(RUNS.get(application, 20), 6))
    return figures


def _standby(client: Containerd, application: Application, backend: str, runs: int) -> list[Figure]:
    fresh: tuple[list[float], list[float]] = ([], [])
    kept: tuple[list[float], list[float]] = ([], [])
    annotations = {**STANDBY, PREFIX + "standby-memory": backend}
    with running(client, application, OURS, annotations) as ours, running(client, application, PEER, {}) as peer:
        for _ in range(runs):
            _moved_out(ours)
            for container, samples in zip((ours, peer), fresh, strict=True):
                with entered(container):
                    samples.append(application.ask())
        if application.stays:
            with connection(ours, application) as sleeping, connection(peer, application) as awake:
                for _ in range(runs):
                    _moved_out(ours)
                    for open_one, samples in zip((sleeping, awake), kept, strict=True):
                        samples.append(application.ask_on(open_one))
    goals = APPLICATIONS[application]
    name = f"{application.name}, {backend}"
    found = [Figure(f"STANDBY, new connection, {name}", "ms", *fresh, AWAKE, goals=goals)]
    if kept[0]:
        found.append(Figure(f"STANDBY, open connection, {name}", "ms", *kept, AWAKE))
    return found


def _moved_out(container: Container) -> None:
    """Wait until it is in STANDBY and its memory is where it goes."""
    until(container.id, lambda status: status.state == State.STANDBY and not status.memory_moving, "moved out", LONG)
    time.sleep(REST)


def _compared(state: str, figures: list[Figure], pairs: Pairs) -> list[Figure]:
    """What must not grow with memory: one of these wakes against another."""
    by_name = {figure.name.removeprefix(f"{state}, new connection, "): figure for figure in figures}
    return [
        Figure(
            f"{state}, {large.name} against {small.name}",
            "ms",
            by_name[large.name].ours,
            by_name[small.name].ours,
            small.name,
            goals=(Goal("ratio", limit),),
        )
        for large, small, limit in pairs
        if large.name in by_name and small.name in by_name
    ]


def cold(client: Containerd, scale: Scale) -> list[Figure]:
    figures = []
    for application in scale.of(APPLICATIONS, QUICK[:2]):
        figures += _cold(client, application, scale.runs(5 if application is REDIS_2G else 15, 4))
    return [*figures, *_compared("COLD", figures, ((REDIS_2G, REDIS, 2.0),))]


def _cold(client: Containerd, application: Application, runs: int) -> list[Figure]:
    fresh, kept, restores, starts = [], [], [], []
    with running(client, application, OURS, COLD) as ours, TemporaryDirectory() as work:
        with running(client, application, PEER, {}) as peer:
            restorer = Restorer(peer, application, Path(work))
            for _ in range(runs):
                until_state(ours.id, "COLD", LONG)
                time.sleep(REST)
                with entered(ours):
                    fresh.append(application.ask())
                restores.append(restorer.restore())
            restorer.end()
        if application.stays:
            with connection(ours, application) as sleeping:
                for _ in range(runs):
                    until_state(ours.id, "COLD", LONG)
                    time.sleep(REST)
                    kept.append(application.ask_on(sleeping))
        if not application.prepare:
            starts = [_start(client, application) for _ in range(runs)]
    name = application.name
    goals = (Goal("ratio", 1.3),) if application is REDIS else ()
    found = [Figure(f"COLD, new connection, {name}", "ms", fresh, restores, RESTORE, goals=goals)]
    if kept:
        found.append(Figure(f"COLD, open connection, {name}", "ms", kept, restores, RESTORE))
    if starts:
        found.append(Figure(f"COLD against a cold start, {name}", "ms", fresh, starts, START))
    return found


def _start(client: Containerd, application: Application) -> float:
    """Milliseconds from the creation of a task on runc's shim to its first answer."""
    began = time.perf_counter()
    with started(client, application, PEER, {}) as container, entered(container):
        first_answer(application)
        return (time.perf_counter() - began) * 1000
