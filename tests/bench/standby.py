"""The wake from STANDBY, to the first byte, against the same request to a container of runc's shim that is awake.

New connections and old ones, of small programs and of ones with much memory. The peer's samples are taken in turns with
ours, so that what the machine does meanwhile is the same for both; their difference is what the wake costs.
"""

import socket
import time

from tests.bench.containers import (
    LARGE_PYTHON,
    LARGE_REDIS,
    NGINX,
    OURS,
    PEER,
    PYTHON,
    REDIS,
    Application,
    entered,
    running,
)
from tests.bench.figures import Figure
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import until_state

SCALEDOWN = {"zeropod.ctrox.dev/scaledown-duration": "200ms"}
AWAKE = "the same request, awake"
REST = 0.05
"""Seconds in standby before somebody comes: nobody wakes it in the very moment in which it falls asleep."""


def new_connection(client: Containerd, runs: int) -> list[Figure]:
    return [_measure(client, application, runs) for application in (NGINX, REDIS, PYTHON)]


def much_memory(client: Containerd, runs: int) -> list[Figure]:
    return [_measure(client, application, runs) for application in (LARGE_PYTHON, LARGE_REDIS)]


def _measure(client: Containerd, application: Application, runs: int) -> Figure:
    wakes: list[float] = []
    awake: list[float] = []
    with running(client, application, OURS, SCALEDOWN) as ours, running(client, application, PEER, {}) as peer:
        for _ in range(runs):
            until_state(ours.id, "STANDBY", 60)
            time.sleep(REST)
            for container, samples in ((ours, wakes), (peer, awake)):
                with entered(container):
                    samples.append(application.ask())
    return Figure(f"wake from STANDBY, new connection, {application.name}", "ms", wakes, awake, AWAKE)


def established(client: Containerd, runs: int) -> list[Figure]:
    wakes: list[float] = []
    awake: list[float] = []
    with running(client, REDIS, OURS, SCALEDOWN) as ours, running(client, REDIS, PEER, {}) as peer:
        with _connection(ours) as sleeping, _connection(peer) as other:
            for _ in range(runs):
                until_state(ours.id, "STANDBY", 60)
                time.sleep(REST)
                wakes.append(_ping(sleeping))
                awake.append(_ping(other))
    return [Figure("wake from STANDBY, established connection, redis", "ms", wakes, awake, AWAKE)]


def _connection(container: Container) -> socket.socket:
    with entered(container):
        return socket.create_connection(("127.0.0.1", REDIS.port), timeout=60)


def _ping(connection: socket.socket) -> float:
    began = time.perf_counter()
    connection.sendall(REDIS.question)
    if not connection.recv(256).startswith(REDIS.answer):
        raise OSError("redis did not answer")
    return (time.perf_counter() - began) * 1000
