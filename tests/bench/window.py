"""What a request waits that arrives at any moment of a fall asleep, by the size of the memory and where it goes.

The client lets the container be idle for a random time around `scaledown-duration`, from before the freeze until all
memory is out, and asks. Before each try a tenth of the memory is written to, and before every tenth try all of it, so
that there is always something to move. The peer is the same request while the container is awake.
"""

import random
import socket
import time
from contextlib import nullcontext

from tests.bench.applications import LOADS, REDIS, REDIS_2G, REDIS_350M, Application
from tests.bench.containers import OURS, PREFIX, connection, running
from tests.bench.figures import Figure, Goal
from tests.bench.scale import Scale
from tests.bench.swap import swap
from tests.integration.containerd import Containerd

SCALEDOWN = 0.2
"""Seconds."""

BEFORE = 0.02
"""Seconds before the freeze from which on requests arrive."""

MOVES = {REDIS: 0.1, REDIS_350M: 0.8, REDIS_2G: 3.0}
"""Seconds after the freeze until which they arrive: about as long as a move of all memory takes."""

PARTS = 10

GOALS = (Goal("ours", 2.0), Goal("p99", 10.0))

WRITE = (
    b"EVAL \"local keys = tonumber(redis.call('DBSIZE')) "
    b"for i = math.floor(keys * ARGV[2]), math.ceil(keys * ARGV[3]) - 1 "
    b"do redis.call('SETRANGE', 'key:' .. i, 0, ARGV[1]) end\" 0 %d %f %f\r\n"
)


def window(client: Containerd, scale: Scale) -> list[Figure]:
    figures: list[Figure] = []
    for backend in ("store", "swap"):
        with swap(6 << 30) if backend == "swap" else nullcontext():
            figures += [
                _window(client, application, backend, scale.runs(300, 20))
                for application in scale.of(MOVES, (REDIS, REDIS_350M))
            ]
    return figures


def _window(client: Containerd, application: Application, backend: str, tries: int) -> Figure:
    annotations = {PREFIX + "scaledown-duration": f"{SCALEDOWN * 1000:g}ms", PREFIX + "standby-memory": backend}
    waits, awake = [], []
    with running(client, application, OURS, annotations) as container, connection(container, application) as client_end:
        for number in range(tries):
            part = None if number % PARTS == 0 else number % PARTS
            _write(client_end, number, part)
            awake.append(application.ask_on(client_end))
            moves = MOVES[application] if part is None else MOVES[application] / PARTS
            time.sleep(SCALEDOWN - BEFORE + random.random() * (moves + BEFORE))
            waits.append(application.ask_on(client_end))
    name = f"a request during a fall asleep, {application.name}, {backend}"
    return Figure(name, "ms", waits, awake, "the same request, awake", goals=GOALS)


def _write(client_end: socket.socket, number: int, part: int | None) -> None:
    first, last = (0.0, 1.0) if part is None else (part / PARTS, (part + 1) / PARTS)
    client_end.settimeout(LOADS)
    client_end.sendall(WRITE % (number, first, last))
    answer = client_end.recv(4096)
    if answer.startswith(b"-"):
        raise OSError(f"redis did not do it: {answer!r}")
