"""Swap for the length of a benchmark: a file that is switched on, and off again on every way out.

Swap is the whole machine's, not the test node's.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DISK = Path(__file__).parents[2] / "build"
"""Where the file is: the node's own files are in memory or on an overlay, neither of which can hold one."""

OFF = 300.0
"""Seconds for everything to come back in."""


@contextmanager
def swap(size: int) -> Iterator[None]:
    """Inside, the machine has `size` bytes of swap more. Raises OSError where that is not possible."""
    for left in DISK.glob("bench-swap-*"):
        _remove(left)  # of a run that was killed
    file = DISK / f"bench-swap-{os.getpid()}"
    try:
        with open(file, "wb") as made:
            os.fchmod(made.fileno(), 0o600)
            os.posix_fallocate(made.fileno(), 0, size)
        for command in (("mkswap", str(file)), ("swapon", str(file))):
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode:
                raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        yield
    finally:
        _remove(file)


def _remove(file: Path) -> None:
    subprocess.run(("swapoff", str(file)), capture_output=True, timeout=OFF, check=False)
    file.unlink(missing_ok=True)
