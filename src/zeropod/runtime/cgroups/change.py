"""Waiting for changes of cgroup files, without polling and without inotify.

kernfs reports a change as POLLPRI on every descriptor that has not read the file since. trio waits for
readability only, and such a file is always readable; but an epoll instance that watches for POLLPRI alone
becomes readable exactly when one of its files has changed, and trio can wait for that.
"""

import os
import select
from contextlib import ExitStack
from pathlib import Path

import trio

from .files import unless_absent

#: Longer than any file that reports changes: cgroup.events and memory.events have a few short lines.
_ENOUGH = 4096


class Changes:
    """Some files of one cgroup, open together. The constructor raises OSError if one of them does not exist."""

    def __init__(self, directory: Path, *names: str) -> None:
        self._descriptors: dict[str, int] = {}
        with ExitStack() as opened:
            self._epoll = opened.enter_context(select.epoll())
            for name in names:
                descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
                opened.callback(os.close, descriptor)
                self._epoll.register(descriptor, select.EPOLLPRI)
                self._descriptors[name] = descriptor
            self._opened = opened.pop_all()

    def __enter__(self) -> "Changes":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def read(self, name: str) -> str | None:
        """Return the file's text, or None once the cgroup is removed. Only later changes end a `wait`."""
        with unless_absent():
            return os.pread(self._descriptors[name], _ENOUGH, 0).decode()
        return None

    async def wait(self) -> None:
        """Return when a file has changed since it was last read; removing the cgroup is not a change."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())
