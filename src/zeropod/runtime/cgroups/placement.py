"""The directories of a process's cgroups, from /proc/PID/cgroup and this process's mounts.

Owns the only parser of /proc/PID/cgroup. That file and mountinfo give paths relative to the reader's cgroup
namespace. A mount's root is the cgroup that it shows at its mount point, so a process's directory is the mount
point plus the rest of its path below that root; `/..` components, which the kernel writes for cgroups above the
namespace's root, compare like any other. Formats: proc(5), cgroups(7).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zeropod.kernel.mountinfo import Mount, visible

#: The key of the v2 hierarchy in `cgroup_paths` of runc's state.json, used here too.
UNIFIED = ""


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy. `controllers` is `{UNIFIED}` for v2; a named v1 hierarchy has `name=…` in it."""

    root: str
    mount_point: Path
    controllers: frozenset[str]


def cgroup_mounts(mounts: list[Mount]) -> list[CgroupMount]:
    """Return the cgroup mounts among these; of two on one mount point only the later, which hides the earlier."""
    return [
        # The options hold the controllers' names, besides `rw` and the like.
        CgroupMount(each.root, Path(each.place), frozenset({UNIFIED} if each.kind == "cgroup2" else each.options))
        for each in visible(mounts)
        if each.kind in ("cgroup", "cgroup2")
    ]


def memberships(cgroup: str) -> Iterator[tuple[str, str]]:
    """Yield (controller, path) for each line of /proc/PID/cgroup, one for each of jointly mounted controllers."""
    for line in filter(None, cgroup.split("\n")):
        number, controllers, path = line.split(":", 2)
        # The mark of a removed cgroup with a zombie in it; another cgroup may have its name by now.
        if path.endswith(" (deleted)"):
            continue
        for controller in [UNIFIED] if number == "0" else controllers.split(","):
            yield controller, path


def below(root: str, path: str) -> str | None:
    """Return the part of `path` below `root`, both as the kernel writes them; None if it is not below it."""
    if root == "/":
        # A process outside our cgroup namespace's root has no directory that we can see.
        return None if path == "/.." or path.startswith("/../") else path.strip("/")
    if path == root or path.startswith(root + "/"):
        rest = path[len(root) :].strip("/")
        return None if rest == ".." or rest.startswith("../") else rest
    return None


def directories(cgroup: str, mounts: list[Mount]) -> dict[str, Path]:
    """Return the process's own directories by controller name (UNIFIED for v2).

    Hierarchies that we cannot see are left out, and those where it is in the root cgroup, which all processes
    share: a hybrid node's v2 tree, and all of v1 for a zombie, which the kernel shows at `/`.
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
