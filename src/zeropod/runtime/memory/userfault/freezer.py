"""The container's freezer for a move, while other code may thaw the container at any moment.

Owns the cut: after it the move does not freeze the container again, whichever step it is in.
"""

import os
import threading
import time
from typing import Final

from zeropod.runtime.cgroups import Cgroup
from zeropod.runtime.memory.backend import MemoryFailed

FROZEN_WITHIN: Final = 1.0
"""Seconds within which released processes must be frozen; it takes microseconds."""


class Cut(Exception):  # noqa: N818 - named for what happened
    """The container is about to be thawed, or has been."""


class Freezer:
    """Thaws and freezes the container during a move, but never freezes it after a cut."""

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup
        self._lock = threading.Lock()
        self._cut = False

    def begin(self) -> None:
        """Begin a move."""
        self._cut = False

    def cut(self) -> None:
        """Prevent freezing from now on. Callable from any thread; blocks for microseconds at most."""
        with self._lock:
            self._cut = True

    def check(self) -> None:
        """Raise Cut if there was one."""
        if self._cut:
            raise Cut

    def check_frozen(self) -> None:
        """Raise Cut if there was one, or if other code has thawed the container."""
        self.check()
        if not self.cgroup.frozen():
            raise Cut

    def thaw(self) -> None:
        self.cgroup.thaw()

    def freeze(self) -> None:
        """Begin to freeze again, unless there was a cut. Raises OSError."""
        paths = self.cgroup.paths
        path, word = (paths["freezer"] + "/freezer.state", b"FROZEN") if "freezer" in paths else (_v2(paths), b"1")
        with self._lock:
            if not self._cut:
                descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(descriptor, word)
                finally:
                    os.close(descriptor)

    def wait_frozen(self) -> None:
        """Return when everything is frozen. Raises Cut; MemoryFailed when that takes too long."""
        until = time.monotonic() + FROZEN_WITHIN
        while not self.cgroup.frozen():
            self.check()
            if time.monotonic() > until:
                raise MemoryFailed("processes that were stopped do not freeze again")
            time.sleep(0.0001)
        self.check()


def _v2(paths: dict[str, str]) -> str:
    return paths[""] + "/cgroup.freeze"
