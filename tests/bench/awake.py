"""A container that is awake, where nothing of ours is in the path: requests, their latency, log throughput."""

import os
import tempfile
import time

from tests.bench.applications import NGINX, REDIS
from tests.bench.containers import AWAKE, OURS, PEER, RUNTIMES, entered, run, running
from tests.bench.figures import Figure, Goal
from tests.bench.scale import Scale
from tests.integration.containerd import Containerd

REQUESTS = 100_000
LOG_BYTES = 512 << 20


def requests(client: Containerd, scale: Scale) -> list[Figure]:
    """redis-benchmark's GETs over 50 connections that stay, and over a new one for each; single requests to nginx."""
    figures, runs = [_latency(client, scale.runs(2000, 500))], scale.runs(5, 3)
    many = REQUESTS // 4 if scale.quick else REQUESTS
    for name, flags in (("kept connections", ("-k", "1")), ("a connection each", ("-k", "0"))):
        count = many if flags[1] == "1" else many // 5
        samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
        with running(client, REDIS, OURS, AWAKE) as ours, running(client, REDIS, PEER, {}) as peer:
            for _ in range(runs):
                for runtime, container in ((OURS, ours), (PEER, peer)):
                    with entered(container):
                        said = run("redis-benchmark", "-t", "get", "-n", str(count), "-c", "50", *flags, "--csv")
                    samples[runtime].append(float(said.splitlines()[-1].split(",")[1].strip('"')))
        figures.append(Figure(f"redis GET, {name}", "per s", samples[OURS], samples[PEER], higher_is_better=True))
    return figures


def _latency(client: Containerd, runs: int) -> Figure:
    samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    with running(client, NGINX, OURS, AWAKE) as ours, running(client, NGINX, PEER, {}) as peer:
        for _ in range(max(1, runs // 100)):
            for runtime, container in ((OURS, ours), (PEER, peer)):
                with entered(container):
                    samples[runtime] += [NGINX.ask() for _ in range(100)]
    return Figure("nginx, one request, new connection", "ms", samples[OURS], samples[PEER])


def logs(client: Containerd, scale: Scale) -> list[Figure]:
    """Bytes from a container's stdout to who reads containerd's fifo."""
    samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(scale.runs(7, 3)):
        for runtime in RUNTIMES:
            samples[runtime].append(_log(client, runtime, LOG_BYTES // 4 if scale.quick else LOG_BYTES))
    goals = (Goal("ratio", 0.9),)
    return [Figure("log throughput", "MiB/s", samples[OURS], samples[PEER], higher_is_better=True, goals=goals)]


def _log(client: Containerd, runtime: str, size: int) -> float:
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        path = os.path.join(directory, "log")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Timed from the first byte on, so that the start of the container is no part of it.
        program = f"sleep 0.2; head -c {size} /dev/zero"
        try:
            with client.container("sh", "-c", program, runtime=runtime, stdout=path) as container:
                container.run()
                os.set_blocking(reader, True)
                total, began = len(os.read(reader, 1)), time.perf_counter()
                while total < size:
                    total += len(os.read(reader, 1 << 20))
                return total / (time.perf_counter() - began) / (1 << 20)
        finally:
            os.close(reader)
