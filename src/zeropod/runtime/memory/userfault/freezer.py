"""The container's freezer as a move uses it, beside a container that may be thawed by others at any moment.

Owns the cut: from then on nothing of ours freezes the container again, however far a move is.
"""

import os
import threading
import time
from typing import Final

from zeropod.runtime.cgroups import Cgroup
from zeropod.runtime.memory.backend import MemoryFailed

FROZEN_WITHIN: Final = 1.0
"""Seconds until processes that are let go of must be frozen; it takes microseconds."""


class Cut(Exception):  # noqa: N818 - named for what happened
    """The container is about to be thawed, or has been."""


class Freezer:
    """The container's freezer as a move uses it: thawed and frozen again, but never against a cut."""

    def __init__(self, cgroup: Cgroup) -> None:
        self.cgroup = cgroup
        self._lock = threading.Lock()
        self._cut = False

    def begin(self) -> None:
        """A move begins."""
        self._cut = False

    def cut(self) -> None:
        """From any thread: what is thawed from now on stays so. Waits for microseconds at most."""
        with self._lock:
            self._cut = True

    def check(self) -> None:
        """Raise Cut if there was one."""
        if self._cut:
            raise Cut

    def check_frozen(self) -> None:
        """Raise Cut if there was one, or if others have thawed the container."""
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
