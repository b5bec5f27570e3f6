"""The mounts of a process, as the kernel lists them in /proc/PID/mountinfo.

Owns the only parser of that file. A line ends at a newline and a field at a blank, and nowhere else: a name may hold
any other character, and those two are written as octal escapes. A name is bytes to the kernel, so one that is not
UTF-8 is decoded as `os.fsdecode` does, and can be handed to a system call again.

Source of facts: proc_pid_mountinfo(5); fs/proc_namespace.c, fs/seq_file.c (seq_path).
"""

import os
import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    id: int
    device: str
    """major:minor."""
    root: str
    """The mounted directory within the file system; for a cgroup mount, relative to the reader's cgroup namespace."""
    place: str
    """The mount point, as seen from the process's root, without symbolic links."""
    kind: str
    fields: tuple[str, ...] = ()
    """The optional fields: shared:N, master:N."""
    options: tuple[str, ...] = ()
    """The file system's options, not the mount's; for a v1 cgroup mount they include its controllers."""


def read(pid: int | str = "self") -> list[Mount]:
    """Return the mounts in a process's mount namespace, in the order of mounting. Raises OSError."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return parse(os.fsdecode(file.read()))


def parse(text: str) -> list[Mount]:
    """Return the mounts in a mountinfo text; a line of another form is left out."""
    found = []
    for line in text.split("\n"):
        # Any number of optional fields stand before the lone hyphen.
        before, hyphen, after = line.partition(" - ")
        fields = before.split(" ")
        if hyphen and len(fields) >= 6 and fields[0].isdecimal() and after:
            kind, *rest = after.split(" ")  # and the source, which may be empty
            options = tuple(rest[-1].split(",")) if len(rest) > 1 else ()
            root, place = unescaped(fields[3]), unescaped(fields[4])
            found.append(Mount(int(fields[0]), fields[2], root, place, kind, tuple(fields[6:]), options))
    return found


def unescaped(text: str) -> str:
    """Return a field without its octal escapes, as /proc/swaps has them too."""
    return _ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), text)


def visible(mounts: list[Mount]) -> list[Mount]:
    """Return the last mount at each place: it hides those before it."""
    last: dict[str, Mount] = {}
    for mount in mounts:
        last.pop(mount.place, None)
        last[mount.place] = mount
    return list(last.values())
