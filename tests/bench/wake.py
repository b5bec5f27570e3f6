"""The wake from COLD, to the first byte of a new connection, against what `runc restore` alone takes.

Both restore the same redis with the same CRIU options (no network lock of CRIU's own); runc's is timed as a command,
without a request and without anybody who notices that one has come.
"""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.containers import OURS, PEER, REDIS, entered, run, running
from tests.bench.figures import Figure
from tests.integration.containerd import Container, Containerd
from tests.integration.sleep.helpers.shims import until_state

from zeropod.runtime.criu import CONFIG_ANNOTATION
from zeropod.runtime.spec import Spec

SCALEDOWN = {"zeropod.ctrox.dev/scaledown-duration": "200ms", "zeropod.ctrox.dev/standby": "false"}


def cold(client: Containerd, runs: int) -> list[Figure]:
    wakes, restores = [], []
    with (
        running(client, REDIS, OURS, SCALEDOWN) as ours,
        running(client, REDIS, PEER, {}) as peer,
        tempfile.TemporaryDirectory() as work,
    ):
        restorer = Restorer(peer, Path(work))
        for _ in range(runs):
            until_state(ours.id, "COLD")
            with entered(ours):
                wakes.append(REDIS.ask())
            restores.append(restorer.restore())
        restorer.end()
    return [Figure("wake from COLD, first byte, redis", "ms", wakes, restores, "runc restore")]


class Restorer:
    """A container of the peer, taken over from its shim: checkpointed and restored by runc's own commands."""

    def __init__(self, container: Container, work: Path) -> None:
        self._work = work
        self._root = "/run/bench-runc"
        self._config = work / "criu.conf"
        self._config.write_text("network-lock skip\n")
        self._bundle = work / "bundle"
        self._bundle.mkdir()
        spec = Spec.read(Path(container.bundle))
        # A network namespace with a path, as CRI gives it and as ours has it: CRIU need not make it anew.
        spec = spec.with_network(f"/proc/{os.getpid()}/ns/net").with_annotation(CONFIG_ANNOTATION, str(self._config))
        content = json.dumps(spec.content).replace(container.id, "bench")
        (self._bundle / "config.json").write_text(content)
        (self._bundle / "rootfs").mkdir()
        run("mount", "--bind", f"{container.bundle}/rootfs", f"{self._bundle}/rootfs")
        self._runc("run", "--detach", "--bundle", str(self._bundle), "bench")
        time.sleep(0.5)

    def _runc(self, *arguments: str) -> None:
        log = ["--log", str(self._work / "runc.log")]
        subprocess.run(
            ["runc", "--root", self._root, *log, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=True,
        )

    def restore(self) -> float:
        """Milliseconds of `runc restore`, after a checkpoint."""
        paths = ["--image-path", str(self._work / "images"), "--work-path", str(self._work / "criu")]
        self._runc("checkpoint", "--tcp-skip-in-flight", *paths, "bench")
        began = time.perf_counter()
        self._runc("restore", "--detach", "--bundle", str(self._bundle), *paths, "bench")
        return (time.perf_counter() - began) * 1000

    def end(self) -> None:
        self._runc("delete", "--force", "bench")
        run("umount", "-l", f"{self._bundle}/rootfs")
