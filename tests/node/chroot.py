"""Commands in the node's Debian tree, run from the host without a node."""

import os
import subprocess
from pathlib import Path

from tests.node.cache import NodeError, run_step

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Whatever a build step mounts or starts ends with it, also when it is interrupted.
CONTAINED = (
    "unshare",
    "--mount",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--propagation",
    "private",
)


def run_inside(tree: Path, command: list[str], log: Path) -> None:
    """Run a build step in the tree, with a /proc that goes away with it."""
    env = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    env |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    chroot = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    run_step([*CONTAINED, "sh", "-c", chroot, str(tree), *command], log, timeout=900, env=env)


def output_inside(tree: Path, command: list[str]) -> str:
    """What a quick command in the tree prints. Raises NodeError when it fails."""
    done = subprocess.run(
        ["chroot", str(tree), *command],
        capture_output=True,
        text=True,
        timeout=30,
        env={"PATH": PATH},
        check=False,
    )
    if done.returncode:
        raise NodeError(f"{' '.join(command)} in {tree} failed: {done.stderr or done.stdout}")
    return done.stdout
