"""Where a process's cgroups lie: a pure reading of /proc/PID/cgroup and of this process's mounts.

Owns the only parser of /proc/PID/cgroup. That file and mountinfo give paths as seen from the reader's cgroup
namespace. A mount's root is the cgroup at which
the mount begins, so a process's directory is the mount point plus what its path has beyond that root; `/..`
components, which the kernel writes for cgroups above the namespace's root, compare like any other. Formats:
proc(5), cgroups(7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zeropod.kernel.mountinfo import Mount, visible

#: The name runc's state.json gives the v2 hierarchy among `cgroup_paths`; we keep to it.
UNIFIED = ""


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy. `controllers` is `{UNIFIED}` for v2; a named v1 hierarchy has `name=…` in it."""

    root: str
    mount_point: Path
    controllers: frozenset[str]


def cgroup_mounts(mounts: list[Mount]) -> list[CgroupMount]:
    """The cgroup mounts among these; of two on one mount point the later, which hides the earlier."""
    return [
        # The options hold the controllers' names, besides `rw` and the like.
        CgroupMount(each.root, Path(each.place), frozenset({UNIFIED} if each.kind == "cgroup2" else each.options))
        for each in visible(mounts)
        if each.kind in ("cgroup", "cgroup2")
    ]


def memberships(cgroup: str) -> Iterator[tuple[str, str]]:
    """(controller, path) for each line of /proc/PID/cgroup; jointly mounted controllers come one by one."""
    for line in filter(None, cgroup.split("\n")):
        number, controllers, path = line.split(":", 2)
        # A removed cgroup with a zombie in it is marked so; the name may be another's by now.
        if path.endswith(" (deleted)"):
            continue
        for controller in [UNIFIED] if number == "0" else controllers.split(","):
            yield controller, path


def below(root: str, path: str) -> str | None:
    """The part of `path` below `root`, both as the kernel writes them, or None if it lies elsewhere."""
    if root == "/":
        # A process outside our cgroup namespace's root: no directory we can see is its own.
        return None if path == "/.." or path.startswith("/../") else path.strip("/")
    if path == root or path.startswith(root + "/"):
        rest = path[len(root) :].strip("/")
        return None if rest == ".." or rest.startswith("../") else rest
    return None


def directories(cgroup: str, mounts: list[Mount]) -> dict[str, Path]:
    """Controller name (UNIFIED for v2) to the process's own directory there.

    Hierarchies that we cannot see are left out, and those where it sits at the mount's root, which belongs to
    everybody: a hybrid node's v2 tree, and all of v1 for a zombie, which the kernel shows at `/`.
    """
    mounted = cgroup_mounts(mounts)
    placed: dict[str, Path] = {}
    for controller, path in memberships(cgroup):
        for mount in mounted:
            rest = below(mount.root, path)
            if controller in mount.controllers and rest:
                placed[controller] = mount.mount_point / rest
                break
    return placed
