"""Parsers of the texts of /proc that a snapshot is made of.

Lines of an unknown form are skipped: no text makes a parser fail. Formats: proc(5), proc_pid_fdinfo(5), proc_locks(5).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from zeropod.kernel import proc_stat
from zeropod.kernel.mappings import Area
from zeropod.runtime.image.snapshot import REFRESHED, Lock

_NAMED = ("/", "anon_inode:")
_REFRESHED_PATH = re.compile(r"/\.\.\d{4}_\d\d_\d\d_")


def locks(text: str) -> list[Lock]:
    """Return the lines of /proc/locks; a waiting lock (`->`) follows the one that it waits for."""
    found = []
    for line in text.splitlines():
        fields = line.replace("->", "-> ").split()[1:]
        waits = fields[:1] == ["->"]
        kind, *rest = fields[1:] if waits else fields or [""]
        device, _, inode = rest[3].rpartition(":") if len(rest) > 3 else ("", "", "")
        if inode.isdecimal() and re.fullmatch(r"-?\d+", rest[2]):
            found.append(Lock(int(rest[2]), device, int(inode), waits, kind, " ".join([kind, *rest])))
    return found


def files(areas: Iterable[Area]) -> list[Area]:
    """Return the first mapping of each file: of what has a name and an inode."""
    found: dict[tuple[str, int, str], Area] = {}
    for area in areas:
        if area.inode and area.name.startswith(_NAMED):
            found.setdefault((area.device, area.inode, area.name), area)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Watch:
    """A line of an inotify descriptor's fdinfo."""

    inode: int
    device: int
    mask: int


def watches(info: str) -> list[Watch]:
    found = []
    for line in info.splitlines():
        if line.startswith("inotify "):
            fields = dict(each.split(":", 1) for each in line.split()[1:] if ":" in each)
            try:
                found.append(Watch(int(fields["ino"], 16), int(fields["sdev"], 16), int(fields["mask"], 16)))
            except (KeyError, ValueError):
                continue
    return found


def polled(info: str) -> list[tuple[int, int]]:
    """Return what an epoll descriptor watches, by its fdinfo: number and inode."""
    found = []
    for line in info.splitlines():
        if line.startswith("tfd:"):
            fields = line.replace(":", " ").split()
            named = dict(zip(fields[::2], fields[1::2], strict=False))
            try:
                found.append((int(named["tfd"]), int(named["ino"], 16)))
            except (KeyError, ValueError):
                continue
    return found


def value(info: str, name: str) -> str:
    """Return the value of a line of fdinfo; empty if it does not have that line."""
    return proc_stat.fields(info).get(name, "")


def is_refreshed(path: str) -> bool:
    """Return whether a path is in the part of a volume that the kubelet replaces as a whole."""
    return bool(_REFRESHED_PATH.search(path)) or REFRESHED in path
