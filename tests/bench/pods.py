"""A pod as a kubelet sees it, on ours and on containerd's own shim: start, exec, stats, delete, the shim's memory."""

import time
from collections.abc import Callable
from contextlib import ExitStack

from tests.bench import usage
from tests.bench.containers import AWAKE, OURS, PEER, RUNTIMES
from tests.bench.figures import Figure, Goal
from tests.bench.scale import Scale
from tests.integration.containerd import Containerd
from tests.integration.cri import Cri

HANDLERS = {OURS: "zeropod", PEER: "runc"}
GOALS = {"pod start": (Goal("ratio", 1.05),), "memory of its shim (PSS)": ()}


def pods(client: Containerd, scale: Scale) -> list[Figure]:
    samples: dict[str, dict[str, list[float]]] = {}
    with Cri() as cri, ExitStack() as stack:
        # The very first of a kind is slower than any other, and on a node that is in use there are others.
        for runtime in RUNTIMES:
            stack.enter_context(cri.pod(handler=HANDLERS[runtime], annotations=AWAKE))
        for _ in range(scale.runs(15, 3)):
            for runtime in RUNTIMES:
                for name, value in _pod(cri, runtime).items():
                    samples.setdefault(name, {kind: [] for kind in RUNTIMES})[runtime].append(value)
    return [
        Figure(name, "MiB" if "memory" in name else "ms", values[OURS], values[PEER], goals=GOALS.get(name, ()))
        for name, values in samples.items()
    ]


def _pod(cri: Cri, runtime: str) -> dict[str, float]:
    times: dict[str, float] = {}

    def timed(name: str, what: Callable[[], object]) -> None:
        began = time.perf_counter()
        what()
        times[name] = (time.perf_counter() - began) * 1000

    began = time.perf_counter()
    with cri.pod(handler=HANDLERS[runtime], annotations=AWAKE) as pod:
        times["pod start, its sandbox alone"] = (time.perf_counter() - began) * 1000
        container = pod.container("redis", "localhost/redis:test")
        times["pod start"] = (time.perf_counter() - began) * 1000
        timed("exec", lambda: container.exec("true"))
        timed("stats", lambda: container.stats)
        times["memory of its shim (PSS)"] = usage.pss(usage.shim(pod.id, runtime, "k8s.io")) / usage.MIB
        timed("delete of a container", container.remove)
        began = time.perf_counter()
    times["delete of a pod"] = (time.perf_counter() - began) * 1000
    return times
