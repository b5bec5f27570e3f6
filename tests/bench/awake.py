"""A container that is awake: requests per second, log throughput, the time to start one."""

import os
import tempfile
import time

from tests.bench.containers import AWAKE, OURS, PEER, REDIS, RUNTIMES, entered, run, running
from tests.bench.figures import Figure
from tests.integration.containerd import Containerd

REQUESTS = 100_000
LOG_BYTES = 512 << 20


def requests(client: Containerd, runs: int) -> list[Figure]:
    """redis-benchmark's GETs over 50 connections that stay, and over a new one for each request."""
    figures = []
    for name, flags in (("kept connections", ("-k", "1")), ("a connection each", ("-k", "0"))):
        count = REQUESTS if flags[1] == "1" else REQUESTS // 5
        samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
        with running(client, REDIS, OURS, AWAKE) as ours, running(client, REDIS, PEER, {}) as peer:
            for _ in range(runs):
                for runtime, container in ((OURS, ours), (PEER, peer)):
                    with entered(container):
                        said = run("redis-benchmark", "-t", "get", "-n", str(count), "-c", "50", *flags, "--csv")
                    samples[runtime].append(float(said.splitlines()[-1].split(",")[1].strip('"')))
        figure = Figure(f"redis GET, {name}", "per s", samples[OURS], samples[PEER], higher_is_better=True)
        figures.append(figure)
    return figures


def logs(client: Containerd, runs: int) -> list[Figure]:
    """Bytes from a container's stdout to who reads containerd's fifo."""
    samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(runs):
        for runtime in RUNTIMES:
            samples[runtime].append(_log(client, runtime))
    return [Figure("log throughput", "MiB/s", samples[OURS], samples[PEER], higher_is_better=True)]


def _log(client: Containerd, runtime: str) -> float:
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        path = os.path.join(directory, "log")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        # Timed from the first byte on, so that the start of the container is no part of it.
        program = f"sleep 0.2; head -c {LOG_BYTES} /dev/zero"
        try:
            with client.container("sh", "-c", program, runtime=runtime, stdout=path) as container:
                container.run()
                os.set_blocking(reader, True)
                total, began = len(os.read(reader, 1)), time.perf_counter()
                while total < LOG_BYTES:
                    total += len(os.read(reader, 1 << 20))
                return total / (time.perf_counter() - began) / (1 << 20)
        finally:
            os.close(reader)


def starts(client: Containerd, runs: int) -> list[Figure]:
    """From the creation of a task to its running program, and the memory of its shim."""
    samples: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    memory: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for _ in range(runs):
        for runtime in RUNTIMES:
            with client.container("sleep", "60", runtime=runtime, annotations=AWAKE) as container:
                began = time.perf_counter()
                container.run()
                samples[runtime].append((time.perf_counter() - began) * 1000)
                memory[runtime].append(_private_mib(container.id))
    return [
        Figure("create and start of a container", "ms", samples[OURS], samples[PEER]),
        Figure("private memory of its shim", "MiB", memory[OURS], memory[PEER]),
    ]


def _private_mib(id: str) -> float:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if id.encode() in words and any(b"containerd-shim" in word for word in words):
                with open(f"/proc/{name}/smaps_rollup") as file:
                    lines = [line.split() for line in file]
                return sum(int(line[1]) for line in lines if line[0].startswith("Private_")) / 1024
        except OSError:
            continue
    raise RuntimeError(f"no shim of {id}")
