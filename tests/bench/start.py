"""`start`, for which containerd waits at every container: of a new shim, and of one that its pod has already."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.containers import OURS, PEER, RUNTIMES
from tests.bench.figures import Figure
from tests.bench.scale import Scale
from tests.integration import node
from tests.integration.containerd import Containerd

BINARIES = {OURS: "containerd-shim-zeropod-v2", PEER: "containerd-shim-runc-v2"}
BUNDLES = Path("/run/zeropod-bench")
POD = "bench-start"
CONTAINERD = ("-address", "/run/containerd/containerd.sock", "-publish-binary", "/usr/bin/containerd")
NEW, THERE = "`start` of a shim", "`start` of a shim that is there"


def start(client: Containerd, scale: Scale) -> list[Figure]:
    samples: dict[tuple[str, str], dict[str, list[float]]] = {
        (kind, unit): {runtime: [] for runtime in RUNTIMES} for kind in (NEW, THERE) for unit in ("ms", "ms of a CPU")
    }
    with _shim(OURS, "warm"):  # the zygote is up, as on a node that has pods already
        for turn in range(scale.runs(100, 5)):
            for runtime in RUNTIMES:
                with ExitStack() as shims:
                    for kind, name in ((NEW, f"{turn}a"), (THERE, f"{turn}b")):
                        pod = f"{turn}a" if kind == THERE else ""
                        took, cpu = shims.enter_context(_shim(runtime, name, pod))
                        samples[kind, "ms"][runtime].append(took)
                        samples[kind, "ms of a CPU"][runtime].append(cpu)
    return [Figure(f"{kind}, {unit}", "ms", values[OURS], values[PEER]) for (kind, unit), values in samples.items()]


@contextmanager
def _shim(runtime: str, name: str, pod: str = "") -> Iterator[tuple[float, float]]:
    """How long the `start` of this container took, and how much of a CPU, itself, in milliseconds."""
    own = f"{POD}-{name}"
    bundle = BUNDLES / runtime / own
    bundle.mkdir(parents=True)
    annotations = {"io.kubernetes.cri.sandbox-id": f"{POD}-{pod or name}"}
    (bundle / "config.json").write_text(json.dumps({"ociVersion": "1.2.0", "annotations": annotations}))
    os.mkfifo(bundle / "log")
    log = os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK)
    command = [BINARIES[runtime], "-namespace", POD, *CONTAINERD, "-id", own, "start"]
    try:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=bundle, stdout=subprocess.PIPE)
        assert process.stdout is not None
        address = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        took = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        assert process.returncode == 0
        assert b"unix://" in address
        if not pod:  # a fork gets its name a moment later
            node.until(lambda: bool(node.running("-id", own)), "its shim is there")
        yield took * 1000, (used.ru_utime + used.ru_stime) * 1000
    finally:
        os.close(log)
        for pid in node.running("-id", own):
            os.kill(pid, signal.SIGKILL)
        node.until(lambda: not node.running("-id", own), "its shim has ended")
        shutil.rmtree(bundle)
