"""Where a process's cgroups lie: a pure reading of /proc/PID/cgroup and /proc/self/mountinfo.

Both files give paths as seen from the reader's cgroup namespace. Field 4 of mountinfo is the cgroup at which
the mount begins, so a process's directory is the mount point plus what its path has beyond that root; `/..`
components, which the kernel writes for cgroups above the namespace's root, compare like any other. Formats:
proc(5), cgroups(7).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The name runc's state.json gives the v2 hierarchy among `cgroup_paths`; we keep to it.
UNIFIED = ""


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One mounted hierarchy. `controllers` is `{UNIFIED}` for v2; a named v1 hierarchy has `name=…` in it."""

    root: str
    mount_point: Path
    controllers: frozenset[str]


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes (space, tab, newline, backslash)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def cgroup_mounts(mountinfo: str) -> list[CgroupMount]:
    """The cgroup mounts in a mountinfo text; of two on one mount point the later, which hides the earlier."""
    found: dict[Path, CgroupMount] = {}
    for line in mountinfo.splitlines():
        # Any number of optional fields stand before the lone hyphen.
        before, hyphen, after = line.partition(" - ")
        if not hyphen:
            continue
        fields, (kind, _source, options) = before.split(" "), after.split(" ", 2)
        point = Path(_unescape(fields[4]))
        found.pop(point, None)
        if kind == "cgroup2":
            found[point] = CgroupMount(_unescape(fields[3]), point, frozenset({UNIFIED}))
        elif kind == "cgroup":
            # The options hold the controllers' names, besides `rw` and the like.
            found[point] = CgroupMount(_unescape(fields[3]), point, frozenset(options.split(",")))
    return list(found.values())


def memberships(cgroup: str) -> Iterator[tuple[str, str]]:
    """(controller, path) for each line of /proc/PID/cgroup; jointly mounted controllers come one by one."""
    for line in cgroup.splitlines():
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


def directories(cgroup: str, mountinfo: str) -> dict[str, Path]:
    """Controller name (UNIFIED for v2) to the process's own directory there.

    Hierarchies that we cannot see are left out, and those where it sits at the mount's root, which belongs to
    everybody: a hybrid node's v2 tree, and all of v1 for a zombie, which the kernel shows at `/`.
    """
    mounts = cgroup_mounts(mountinfo)
    placed: dict[str, Path] = {}
    for controller, path in memberships(cgroup):
        for mount in mounts:
            rest = below(mount.root, path)
            if controller in mount.controllers and rest:
                placed[controller] = mount.mount_point / rest
                break
    return placed
