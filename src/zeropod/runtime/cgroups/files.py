"""Reading, writing and walking cgroup directories, where everything may vanish at any moment.

A cgroup file answers ENOENT once its directory is removed, ENODEV if it was open at that time, and EOPNOTSUPP
where the kernel does not account what it would hold (PSI switched off, threaded cgroups). All three mean
"nothing to read" here; every other error is real and passes through.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .parse import number

_ABSENT = frozenset({errno.ENODEV, errno.ENOTDIR, errno.EOPNOTSUPP})


def is_absent(error: OSError) -> bool:
    """Return whether `error` means that the file, or its whole cgroup, does not exist."""
    return isinstance(error, FileNotFoundError) or error.errno in _ABSENT


def read(path: Path) -> str | None:
    """Return the text of a cgroup file, or None if it does not exist (any more)."""
    with unless_absent():
        return path.read_text()
    return None


@contextmanager
def unless_absent() -> Iterator[None]:
    """Ignore that a file, or its whole cgroup, does not exist (any more)."""
    try:
        yield
    except OSError as error:
        if not is_absent(error):
            raise


def write(path: Path, value: str) -> None:
    """Write a control file in one write(2), as the kernel wants it. Raises OSError, FileNotFoundError if it is gone.

    Never creates the file: in a cgroup that would fail with a misleading EACCES instead of ENOENT.
    """
    with open(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "wb", buffering=0) as file:
        file.write(value.encode())


def huge_pages(directory: Path, usage: str) -> dict[str, int]:
    """Return the bytes in use for each size of huge pages; `usage` is the file's name after `hugetlb.2MB.`."""
    found = {
        path.name.split(".")[1]: path for path in directory.glob(f"hugetlb.*.{usage}") if ".rsvd." not in path.name
    }
    return {size: number(read(path)) for size, path in sorted(found.items())}


def member_pids(directory: Path) -> list[int]:
    """Return the processes in the cgroup and its sub-cgroups, ascending; empty if it is gone.

    The kernel writes 0 for a process without a pid in our pid namespace; those are left out.
    """
    texts = (read(Path(group, "cgroup.procs")) for group, _, _ in os.walk(directory))
    return sorted({int(line) for text in texts if text for line in text.split()} - {0})
