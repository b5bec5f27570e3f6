"""A container that comes back out of an export, at its creation: what is asked of the export, and how far it is.

Between containerd's Create and Start its processes are there, stopped, and have not run an instruction. Whatever fails
until the export was given is undone, and the container is created as any other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import trio

from zeropod.lifecycle.machine import Action
from zeropod.runtime.exports.manifest import Manifest
from zeropod.runtime.memory.userfault.extents import Index
from zeropod.runtime.pager.files import PagesFile


class AdoptionFailed(Exception):  # noqa: N818 - an outcome
    """Nothing has come of an export, and nothing is left of the attempt. The text says why."""


class Coming(Protocol):
    """An export that a container comes back from, local or on its way here."""

    manifest: Manifest
    images: Path
    """Where CRIU's image is, complete."""
    store: Path
    """Where the store's files are, as far as they are."""
    indexes: Mapping[int, Index]

    def open_files(self) -> dict[int, PagesFile]:
        """Open the store's files. Raises OSError."""

    async def commit(self) -> None:
        """Have it decided that the container runs here. Raises AdoptionFailed, OSError: then it must not."""

    def settle(self, images: Path, store: Path) -> None:
        """After the commit, have its parts where this container keeps its own. Raises OSError."""


class Arrival:
    """One attempt."""

    def __init__(self, coming: Coming) -> None:
        self.coming = coming
        self.row: tuple[Action, ...] = ()
        """What is done once it is started."""
        self.is_here = False
        self._failure = ""
        self._here = trio.Event()
        self._started = trio.Event()

    def has_come(self) -> None:
        """Its processes are there, stopped, with all that belongs to them."""
        self.is_here = True
        self._here.set()

    def fail(self, why: str) -> None:
        """Nothing has come of it, and nothing is left."""
        self._failure = why
        self._here.set()

    async def here(self) -> None:
        """Return when its processes are there. Raises AdoptionFailed."""
        await self._here.wait()
        if not self.is_here:
            raise AdoptionFailed(self._failure)

    def start(self, row: tuple[Action, ...]) -> None:
        """It is started, and goes on with these actions."""
        self.row = row
        self._started.set()

    async def started(self) -> None:
        """Return when it was started."""
        await self._started.wait()
