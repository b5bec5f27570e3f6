"""What a sleeping container costs, beside the same one awake on runc's shim. Taken once: memory does not jitter."""

import time
from collections.abc import Iterator

from tests.bench import usage
from tests.bench.applications import NGINX, REDIS, REDIS_350M, Application
from tests.bench.containers import COLD, OURS, PEER, STANDBY, entered, running
from tests.bench.figures import Figure, Goal
from tests.bench.scale import Scale
from tests.bench.usage import MIB
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import until_state

AWAKE = "the same awake on runc's shim"
SETTLE = 1.0
"""Seconds after which everything that a fall into sleep has left behind is done."""
LONG = 60.0


def idle(client: Containerd, scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for application in scale.of((NGINX, REDIS, REDIS_350M), (NGINX, REDIS)):
        with running(client, application, PEER, {}) as peer:
            processes, kernel, shim = _awake(peer)
        figures += _standby(client, application, processes, kernel, shim)
        figures += _cold(client, application, processes + kernel, shim)
    return figures


def _awake(container: Container) -> tuple[int, int, int]:
    pid = container.get().pid
    return usage.processes(pid), usage.kernel(pid), usage.pss(usage.shim(container.id, PEER))


def _standby(client: Containerd, application: Application, processes: int, kernel: int, shim: int) -> Iterator[Figure]:
    with running(client, application, OURS, STANDBY) as container:
        # Not the first sleep: by the second the pager knows what a wake needs.
        for _ in range(2):
            until_state(container.id, "STANDBY", LONG)
            with entered(container):
                application.ask()
        until_state(container.id, "STANDBY", LONG)
        time.sleep(SETTLE)
        pid = usage.pid_of(container.id)
        frozen, pager = usage.processes(pid), usage.pager(container.id)
        small = (Goal("ours", 12.0),) if application is NGINX else ()
        yield _figure(f"STANDBY, frozen processes, {application.name}", frozen, processes)
        yield _figure(f"STANDBY, kernel memory of its cgroup, {application.name}", usage.kernel(pid), kernel)
        yield _figure(f"STANDBY, pager, {application.name}", pager)
        yield _figure(f"STANDBY, frozen processes and pager, {application.name}", frozen + pager, processes, small)
        yield from _common("STANDBY", container, application, shim)


def _cold(client: Containerd, application: Application, memory: int, shim: int) -> Iterator[Figure]:
    with running(client, application, OURS, COLD) as container:
        until_state(container.id, "COLD", LONG)
        time.sleep(SETTLE)
        yield _figure(f"COLD, processes, pager, kernel memory, {application.name}", usage.pager(container.id), memory)
        yield from _common("COLD", container, application, shim)
        yield _figure(f"COLD, image in the page cache, {application.name}", usage.cached(container.id))
        yield _figure(f"COLD, image on disk, {application.name}", usage.image_size(container.id, "default"))


def _common(state: str, container: Container, application: Application, shim: int) -> Iterator[Figure]:
    yield _figure(f"{state}, shim, {application.name}", usage.pss(usage.shim(container.id)), shim)


def _figure(name: str, ours: int, peer: int | None = None, goals: tuple[Goal, ...] = ()) -> Figure:
    return Figure(name, "MiB", [ours / MIB], [] if peer is None else [peer / MIB], AWAKE, goals=goals)
