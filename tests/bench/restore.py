"""A container that is checkpointed and restored by runc's own commands, with nobody else's help."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.bench.applications import Application
from tests.bench.containers import first_answer, run
from tests.integration.containerd import Container

from zeropod.runtime.criu import CONFIG_ANNOTATION
from zeropod.runtime.spec import Spec

LONG = 120


class Restorer:
    """Like a container of the peer, from its bundle, in the bench's own network.

    CRIU's options are ours, as far as they are the user's to choose: no network lock of CRIU's own.
    """

    def __init__(self, container: Container, application: Application, work: Path) -> None:
        self.checkpoint_ms = 0.0
        """Milliseconds of the `runc checkpoint` before the last restore."""
        self._work = work
        self._root = "/run/bench-runc"
        self._config = work / "criu.conf"
        self._config.write_text("network-lock skip\n")
        # On the disk that our images are on, not in memory.
        self._images = Path("/var/lib/zeropod/bench")
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
        first_answer(application)
        if application.prepare:
            application.exchange(application.prepare, b"+OK")

    def _runc(self, *arguments: str) -> None:
        log = ["--log", str(self._work / "runc.log")]
        subprocess.run(
            ["runc", "--root", self._root, *log, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=LONG,
            check=True,
        )

    def restore(self) -> float:
        """Milliseconds of `runc restore`, after a checkpoint."""
        shutil.rmtree(self._images, ignore_errors=True)
        paths = ["--image-path", str(self._images), "--work-path", str(self._work / "criu")]
        began = time.perf_counter()
        self._runc("checkpoint", "--tcp-skip-in-flight", "--tcp-established", *paths, "bench")
        self.checkpoint_ms = (time.perf_counter() - began) * 1000
        began = time.perf_counter()
        self._runc("restore", "--detach", "--bundle", str(self._bundle), "--tcp-established", *paths, "bench")
        return (time.perf_counter() - began) * 1000

    def end(self) -> None:
        self._runc("delete", "--force", "bench")
        run("umount", "-l", f"{self._bundle}/rootfs")
        shutil.rmtree(self._images, ignore_errors=True)
