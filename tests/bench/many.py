"""Many sleeping pods on one node: what they cost together, how one among them wakes, and all of them at once.

Each is a pod of its own with an nginx, and so with a shim of its own.
"""

import select
import socket
import time
from contextlib import ExitStack

from tests.bench import usage
from tests.bench.applications import NGINX
from tests.bench.containers import PREFIX
from tests.bench.figures import Figure, Goal
from tests.bench.scale import Scale
from tests.bench.usage import MIB
from tests.integration.containerd import Containerd
from tests.integration.cri import Container, Cri
from tests.integration.sleep.helpers.shims import statuses

from zeropod.rpc.messages.status_pb2 import State

SLEEPS = {PREFIX + "scaledown-duration": "3s"}
"""Long enough for all to have answered before the first one falls asleep again; it is a minute by default."""

LONG = 600.0
LOOK = 1.0
MINUTE = 60.0
FIRST = 60.0
"""Seconds for the last of them to answer."""

LIMITS = {100: ((Goal("ours", 2.0),), (Goal("p99", 500.0),))}
"""Goals for the CPU and for all at once, by the number of pods."""


def many(client: Containerd, scale: Scale) -> list[Figure]:
    figures = []
    for number in scale.pods:
        with Cri() as cri, ExitStack() as stack:
            containers = [start(stack, cri) for _ in range(number)]
            figures += _measure(f"{number} sleeping pods", containers, scale)
    return figures


def start(stack: ExitStack, cri: Cri) -> Container:
    """A pod with an nginx that sleeps; `stack` removes it."""
    pod = stack.enter_context(cri.pod(handler="zeropod", annotations=SLEEPS))
    return pod.container("nginx", "localhost/nginx:test")


def _measure(name: str, containers: list[Container], scale: Scale) -> list[Figure]:
    number = len(containers)
    fell = time.monotonic()
    sleeping(containers)
    fell = time.monotonic() - fell
    shims = [usage.shim(container.pod.id, namespace="k8s.io") for container in containers]
    cpu, processor = LIMITS.get(number, ((), ()))
    before, began = sum(map(usage.cpu_seconds, shims)), time.monotonic()
    time.sleep(10.0 if scale.quick else MINUTE)
    used = (sum(map(usage.cpu_seconds, shims)) - before) / (time.monotonic() - began) * 100
    found = statuses()
    frozen = [usage.processes(found[container.id].pid) / MIB for container in containers]
    one = [wake_one(containers[turn % number]) for turn in range(scale.runs(20, 5))]
    together = _wake_all(containers, scale.runs(3, 1))
    return [
        Figure(f"{name}: shim (PSS), each", "MiB", [usage.pss(shim) / MIB for shim in shims]),
        Figure(f"{name}: frozen processes, each", "MiB", frozen),
        Figure(
            f"{name}: pager, each", "MiB", [usage.pager(container.id, "k8s.io") / MIB for container in containers[:10]]
        ),
        Figure(f"{name}: CPU of their shims", "% of a core", [used], goals=cpu),
        Figure(f"{name}: until the last one sleeps", "s", [fell]),
        Figure(f"{name}: wake of one", "ms", one),
        Figure(f"{name}: wake of all at once", "ms", together, goals=processor),
    ]


def sleeping(containers: list[Container]) -> None:
    """Returns when all of them sleep. Raises TimeoutError."""
    deadline = time.monotonic() + LONG
    while True:
        found = statuses()
        awake = [container.id for container in containers if found[container.id].state != State.STANDBY]
        if not awake:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(awake)} of {len(containers)} do not sleep, such as {found[awake[0]]}")
        time.sleep(LOOK)


def wake_one(container: Container) -> float:
    """Milliseconds to its first byte, once it sleeps."""
    sleeping([container])
    return _first_bytes([container])[0]


def _wake_all(containers: list[Container], rounds: int) -> list[float]:
    samples = []
    for _ in range(rounds):
        sleeping(containers)
        time.sleep(LOOK)
        samples += _first_bytes(containers)
    return samples


def _first_bytes(containers: list[Container]) -> list[float]:
    """Milliseconds to the first byte of each, all asked at the same time by one client."""
    poll, began = select.epoll(), {}
    asked: dict[int, socket.socket] = {}
    times: list[float] = []
    with ExitStack() as stack:
        for container in containers:
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            began[client.fileno()] = time.perf_counter()
            client.connect_ex((container.pod.ip, NGINX.port))
            poll.register(client, select.EPOLLOUT)
            asked[client.fileno()] = client
        while len(times) < len(containers):
            ready = poll.poll(FIRST)
            if not ready:
                raise TimeoutError(f"{len(containers) - len(times)} of {len(containers)} did not answer")
            for descriptor, events in ready:
                client = asked[descriptor]
                if events & select.EPOLLOUT:
                    client.send(NGINX.question)
                    poll.modify(client, select.EPOLLIN)
                    continue
                if not client.recv(4096).startswith(NGINX.answer):
                    raise OSError(f"{client.getpeername()} did not answer")
                times.append((time.perf_counter() - began[descriptor]) * 1000)
                poll.unregister(client)
    return times
