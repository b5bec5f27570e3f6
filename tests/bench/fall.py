"""A fall asleep: how long the container is frozen for it, how long its memory takes, and what stays.

By the shim's own account, which `ContainerStatus` gives. Nothing of runc's is comparable, but for the dump: its peer is
`runc checkpoint` of the same program awake, which writes all of its memory.
"""

import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import usage
from tests.bench.applications import NGINX, REDIS, REDIS_2G, REDIS_350M, Application
from tests.bench.containers import COLD, OURS, PEER, PREFIX, STANDBY, entered, running
from tests.bench.figures import Figure, Goal
from tests.bench.restore import Restorer
from tests.bench.scale import Scale
from tests.bench.swap import swap
from tests.bench.usage import MIB
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import status, until, until_state

from zeropod.rpc.messages.status_pb2 import ContainerStatus, State

LONG = 120.0
"""Seconds for two gigabytes on a busy machine."""
LOOK = 0.002
"""Seconds between two looks whether the memory is out."""
WRITE = b"EVAL \"for i=0,tonumber(redis.call('DBSIZE'))-1 do redis.call('SETRANGE','key:'..i,0,ARGV[1]) end\" 0 %d\r\n"

APPLICATIONS = (NGINX, REDIS, REDIS_350M, REDIS_2G)
QUICK = (REDIS, REDIS_350M)
MOVED = {REDIS_350M: (Goal("ours", 1000.0),)}
AGAIN = {REDIS_350M: (Goal("ours", 2.0),), REDIS_2G: (Goal("ours", 2.0),)}


def fall(client: Containerd, scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for application in scale.of(APPLICATIONS, QUICK):
        for backend in ("store", "swap"):
            with swap(6 << 30) if backend == "swap" else nullcontext():
                figures += _standby(client, application, backend, scale.runs(10, 3))
        figures += _cold(client, application, scale.runs(10, 3))
    return figures


def _standby(client: Containerd, application: Application, backend: str, runs: int) -> list[Figure]:
    frozen, moved, again, left, pager = [], [], [], [], []
    with running(client, application, OURS, {**STANDBY, PREFIX + "standby-memory": backend}) as container:
        pid = container.get().pid
        for run in range(runs):
            now = _asleep(container)
            frozen.append(now.last_checkpoint_ms)
            moved.append(_moved(container))
            now = status(container.id)
            left.append(usage.anonymous(pid) / MIB)
            pager.append(usage.pager(container.id) / MIB)
            _wake(container, application)
            _asleep(container)
            _moved(container)
            second = status(container.id)
            if now.memory_out_bytes:
                written = second.memory_written_bytes_total - now.memory_written_bytes_total
                again.append(100 * written / now.memory_out_bytes)
            _wake(container, application, WRITE % run if application.prepare else b"")
    name = f"{application.name}, {backend}"
    figures = [
        Figure(f"frozen for STANDBY, {name}", "ms", frozen, goals=(Goal("ours", 5.0),)),
        Figure(f"all of its memory out, {name}", "ms", moved, goals=MOVED.get(application, ())),
        Figure(f"anonymous memory left in its main process, {name}", "MiB", left, goals=(Goal("ours", 2.0),)),
    ]
    if again:
        figures.append(
            Figure(
                f"written by a sleep after a wake that changed nothing, {name}",
                "%",
                again,
                goals=AGAIN.get(application, ()),
            )
        )
    if any(pager):
        figures.append(Figure(f"private memory of its pager, {name}", "MiB", pager, goals=(Goal("ours", 3.0),)))
    return figures


def _asleep(container: Container) -> ContainerStatus:
    until_state(container.id, "STANDBY", LONG)
    return status(container.id)


def _moved(container: Container) -> float:
    """Milliseconds since the container was frozen until nothing moves any more."""
    began = time.perf_counter()
    now = status(container.id)
    since = time.time() - now.since.ToMicroseconds() / 1e6
    while now.memory_moving:
        time.sleep(LOOK)
        now = status(container.id)
    until(container.id, lambda now: now.state == State.STANDBY and not now.memory_moving, "moved out", LONG)
    return (since + time.perf_counter() - began) * 1000


def _wake(container: Container, application: Application, write: bytes = b"") -> None:
    with entered(container):
        application.ask()
        if write:
            application.exchange(write, b"$")


def _cold(client: Containerd, application: Application, runs: int) -> list[Figure]:
    dumps, peers = [], []
    with running(client, application, OURS, COLD) as ours, TemporaryDirectory() as work:
        with running(client, application, PEER, {}) as peer:
            restorer = Restorer(peer, application, Path(work))
            for _ in range(runs):
                until_state(ours.id, "COLD", LONG)
                dumps.append(status(ours.id).last_checkpoint_ms)
                with entered(ours):
                    application.ask()
                restorer.restore()
                peers.append(restorer.checkpoint_ms)
            restorer.end()
    name = f"dump for COLD, {application.name}"
    return [Figure(name, "ms", dumps, peers, "runc checkpoint", goals=(Goal("ours", 200.0),))]
