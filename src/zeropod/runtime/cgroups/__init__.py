"""Cgroups: a container's processes as a unit that can be frozen, measured and removed.

`of(pid)` finds the cgroup of a running process, `at(paths)` opens one by its recorded paths; both return a
`Cgroup`, which has the same interface on v1, hybrid and v2 nodes. `accumulate` and `asleep` keep the
statistics of a container correct across its sleeps. runc creates cgroups and sets their limits.
"""

from collections.abc import Mapping
from pathlib import Path

from zeropod.kernel import mountinfo

from .base import Cgroup, Metrics, MetricsV1, MetricsV2, SwapState
from .errors import CgroupError, CgroupNotFound, FreezeTimeout
from .placement import UNIFIED, directories
from .sleeping import accumulate, asleep
from .v1 import CgroupV1
from .v2 import CgroupV2

__all__ = [
    "Cgroup",
    "CgroupError",
    "CgroupNotFound",
    "CgroupV1",
    "CgroupV2",
    "FreezeTimeout",
    "Metrics",
    "MetricsV1",
    "MetricsV2",
    "SwapState",
    "accumulate",
    "asleep",
    "at",
    "of",
]


def of(pid: int) -> Cgroup:
    """Return the cgroup that a process is in now. Raises CgroupNotFound if it is gone or has none of its own."""
    try:
        cgroup = Path(f"/proc/{pid}/cgroup").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise CgroupNotFound(f"process {pid} is gone, so its cgroup cannot be found") from error
    found = directories(cgroup, mountinfo.read())
    try:
        return at(found)
    except CgroupNotFound as error:
        lines = ", ".join(cgroup.split())
        raise CgroupNotFound(
            f"process {pid} has no cgroup of its own that is mounted here; /proc/{pid}/cgroup says {lines}"
        ) from error


def at(paths: Mapping[str, Path] | Mapping[str, str]) -> Cgroup:
    """Return the cgroup with these directories, as `Cgroup.paths` and `cgroup_paths` in runc's state.json give them.

    It need not exist (any more). Raises CgroupNotFound if no usable directory is given.
    """
    found = {controller: Path(directory) for controller, directory in paths.items()}
    # A named v1 hierarchy controls nothing: systemd mounts one on nodes that otherwise have v2.
    resources = {
        controller: directory
        for controller, directory in found.items()
        if controller != UNIFIED and not controller.startswith("name=")
    }
    if resources:
        return CgroupV1({controller: found[controller] for controller in found if controller != UNIFIED})
    if UNIFIED in found:
        return CgroupV2({UNIFIED: found[UNIFIED]})
    raise CgroupNotFound("no cgroup controller among the paths: " + (", ".join(found) or "there are none"))
