"""The node's own corner of the host's cgroup v1 hierarchies, and of a v2 one beside them.

In every hierarchy the node gets one cgroup below the caller's, and its cgroup namespace begins there:
whatever cgroups it makes lie below, to be found and removed however it ends. Of v2 it uses no controllers,
but a CRIU that dumps keeps what lies below its container's v2 cgroup, and makes it anew at each restore: from
the host's root that would be other people's. That takes care:

- A task in a FROZEN v1 freezer cannot be killed, not even by the end of its pid namespace (Linux,
  kernel/cgroup/legacy_freezer.c). So: thaw, kill, look again, since a shim may freeze once more in
  between.
- A cgroup is busy for some milliseconds after its last task was killed.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tests.node.cache import NodeError

MOUNTS = Path("/sys/fs/cgroup")
UNIFIED = "unified"
"""Where systemd mounts v2 beside v1, and others after it."""

# Seconds until what does not die or cannot be removed is reported instead.
PATIENCE = 20.0


def corners(name: str) -> list[Path]:
    """Where the node's cgroups will be: one in every v1 hierarchy, and one in v2's if that is mounted, too.

    Raises NodeError if there are no v1 hierarchies.
    """
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        mount = controllers.removeprefix("name=") or UNIFIED
        found[mount] = MOUNTS / mount / path.lstrip("/") / name
    unified = found.pop(UNIFIED, None)
    unmounted = [corner for corner in found.values() if not corner.parent.is_dir()]
    if unmounted or not found:
        missing = ", ".join(str(corner.parent) for corner in unmounted) or f"{MOUNTS}/<controller>"
        raise NodeError(f"a test node needs cgroup v1 controllers, and {missing} is not there")
    beside = [unified] if unified is not None and (unified.parent / "cgroup.procs").exists() else []
    return [*found.values(), *beside]


def create(there: Iterable[Path]) -> None:
    """Make the node's cgroups."""
    for corner in there:
        corner.mkdir()
        for needed in ("cpuset.cpus", "cpuset.mems"):  # empty at first, and then no task may enter
            if (corner / needed).exists():
                (corner / needed).write_text((corner.parent / needed).read_text())


def join(there: Iterable[Path]) -> None:
    """Move the calling process into the node's cgroups."""
    for corner in there:
        (corner / "cgroup.procs").write_text("0")


def clear(there: Iterable[Path]) -> None:
    """Thaw and kill all that is in the node, then remove its cgroups.

    Raises NodeError when some are left after PATIENCE; the message names them and their tasks.
    """
    deadline = time.monotonic() + PATIENCE
    left = list(there)
    while True:
        for corner in left:
            _thaw_and_kill(corner)
        left = [corner for corner in left if not _remove(corner)]
        if not left:
            return
        if time.monotonic() > deadline:
            tasks = sorted({task for corner in left for task in _tasks(corner)})
            raise NodeError(f"cannot remove {', '.join(map(str, left))}; tasks still in there: {tasks}")
        time.sleep(0.02)


def _deepest_first(corner: Path) -> list[Path]:
    return [Path(directory) for directory, _, _ in os.walk(corner, topdown=False)]


def _thaw_and_kill(corner: Path) -> None:
    for cgroup in reversed(_deepest_first(corner)):  # a cgroup below a frozen one does not thaw
        with suppress(OSError):
            if (cgroup / "freezer.state").exists():
                (cgroup / "freezer.state").write_text("THAWED")
    for task in _tasks(corner):
        with suppress(ProcessLookupError):
            os.kill(task, signal.SIGKILL)


def _tasks(corner: Path) -> set[int]:
    found: set[int] = set()
    for cgroup in _deepest_first(corner):
        with suppress(OSError):  # the node may remove it while we look
            found.update(map(int, (cgroup / "cgroup.procs").read_text().split()))
    return found


def _remove(corner: Path) -> bool:
    """True when the cgroup and all below it are gone."""
    with suppress(OSError):
        for cgroup in _deepest_first(corner):
            cgroup.rmdir()
    return not corner.exists()
