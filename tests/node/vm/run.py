"""One run of the machine, from its lock to its end.

Its directory and lock are as the other node's, so that each takes away what a killed one of either kind left behind.
"""

import signal
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.node import images, older, rootfs, site
from tests.node.applications import images as applications
from tests.node.cache import CACHE, CHECKOUT, forget_others, locked, say
from tests.node.run import Signalled, collect, lock_run, remove
from tests.node.vm import checkout, product, results, state, tree
from tests.node.vm.qemu import Machine
from tests.node.vm.talk import Conversation

PREPARED_WITHIN = 120.0

GRACE = 60.0
"""Seconds that the command has to end by itself after Ctrl-C."""

# The disk was there before, with other contents, and its beginning may have been read.
PREPARE = f"""
set -e
blockdev --flushbufs /dev/vdb
tar -C / -xf /dev/vdb
install -D -m 0755 /src/build/zeropod.pyz {product.INSTALLED}
zeropod unpack >/dev/null
"""

# After PREPARE.
OLDER = """
set -e
systemctl stop containerd
for program in containerd containerd-shim-runc-v2 ctr; do
  mount --bind "/src/build/containerd-1.7/usr/bin/$program" "/usr/bin/$program"
done
cp /src/tests/node/vm/containerd-1.7.toml /etc/containerd/config.toml
systemctl start containerd
ctr images ls --quiet | grep -q .
"""

ENVIRONMENT = {
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": "/node/site:/src",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def run_in_machine(command: list[str], timeout: float, *, with_older: bool = False) -> int:
    """Run ``command`` in a machine for at most ``timeout`` seconds, take that away, return the command's status.

    `with_older`: containerd 1.7 is its containerd.
    """
    with ExitStack() as alive:
        with locked(CACHE / "lock"):
            nobody_else = collect()
            base = rootfs.debian()
            older.containerd(base)
            packages, archives = site.packages(base), [images.archive(base), applications.archive(base)]
            debian = tree.debian(base)
            kept = state.kept(base, debian, packages, archives)
            if nobody_else:
                for each in (base, packages, *(archive.parent for archive in archives), debian, kept):
                    forget_others(each)
            directory = Path(tempfile.mkdtemp(prefix="run-", dir=CACHE))
            alive.enter_context(lock_run(directory))
        try:
            return _run(debian, kept, directory, PREPARE + OLDER * with_older, command, timeout)
        finally:
            remove(directory)


def _run(debian: Path, kept: Path, directory: Path, prepare: str, command: list[str], timeout: float) -> int:
    began = time.monotonic()
    source = directory / "checkout"
    checkout.disk(source, CHECKOUT, {product.LIBRARY: product.unpacked(debian, directory)})
    how = state.acceleration(kept)
    with Machine(state.parts(kept, source), how, directory) as machine:
        agent = Conversation(machine.port)
        if status := agent.run(["sh", "-c", prepare], timeout=PREPARED_WITHIN):
            say(f"the machine could not take the checkout: status {status}")
            return 125
        say(f"the machine is up after {time.monotonic() - began:.1f} s, under {how.name}")
        try:
            environment = {**ENVIRONMENT, "ZEROPOD_TEST_PATIENCE": str(how.patience)}
            status = agent.run(command, environment, directory="/src", timeout=timeout, attached=True)
        except Signalled as ended:
            if ended.number != signal.SIGINT:
                raise
            status = agent.interrupt(signal.SIGINT, GRACE)
        results.bring(agent, directory)
        say(f"the machine ends after {time.monotonic() - began:.0f} s, {machine.cpu_seconds():.0f} s of a CPU")
        return status
