"""Brings a container's processes back out of its image, and all of their memory after them.

Lazily first: the processes exist at once, and a pager brings a page when it is touched. The image stays until the last
page is in. What was touched first after a wake is remembered, for the next pager to bring beforehand.
"""

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.runtime import criu
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.command import Started, nothing
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.pager import Pager, PagerLost, WorkingSet
from zeropod.runtime.tmpfs import KeptMounts
from zeropod.shim import places
from zeropod.shim.incarnation import Incarnation

if TYPE_CHECKING:
    from zeropod.shim.container import Container

RESTORE = 60.0
"""Seconds for one attempt to restore."""


class Restorer:
    def __init__(self, container: "Container", nursery: trio.Nursery) -> None:
        self._container = container
        self._nursery = nursery
        self._pager: Pager | None = None
        self._done = trio.Event()
        """Set when the present pager, if there is one, has ended."""
        self._lost = ""
        """Why the memory can not be completed any more."""
        self._working_set: WorkingSet = ()
        self.kept = KeptMounts(places.tmpfs(container.runc.namespace, container.id))
        """What does not go through the image."""

    async def restore(self, *, lazy: bool, stopped: bool = False, started: Started = nothing) -> Incarnation:
        """Raises CriuError, and then nothing is left of it but the image. `stopped`: without letting it run."""
        container, store = self._container, self._container.store
        pager = restored = None
        try:
            store.prepare_restore()
            container.configure_criu(stopped=stopped, more=self.kept.for_restore())
            if lazy:
                pager = Pager.start(store.images, store.work, self._working_set, say=container.log.warning)
            options = criu.restore_options(lazy=lazy, tcp_established=container.settings.tcp_established)
            restored = await container.restore(store.images, store.work, options, RESTORE, started)
            container.configure_criu()  # what is for this restore alone must not get into anybody's next dump
            self.kept.restored(restored.pids())
            if pager:
                await pager.guarded()
        except BaseException as error:
            if restored:
                restored.exit_expected = True
            self.kept.restored(())
            with trio.CancelScope(shield=True):
                if pager:
                    await pager.kill()
                with suppress(RuncError):
                    await container.runc.delete(container.id, force=True)
            if isinstance(error, RuncError | OSError | CgroupError | CriuError):
                raise criu.explain(store.work / "restore.log", error) from error
            raise
        self._pager, self._lost, self._done = pager, "", trio.Event()
        if pager:
            self._nursery.start_soon(self._bring, pager, self._done)
        else:
            self._done.set()
        return restored

    async def _bring(self, pager: Pager, done: trio.Event) -> None:
        try:
            await pager.run()
        except PagerLost as reason:
            self._lost = str(reason)
        self._working_set = pager.working_set
        done.set()

    async def fill(self) -> None:
        """The restored container is frozen: brings what it is likely to touch first."""
        if self._pager:
            await self._pager.fill()

    def broken(self) -> str:
        """Why pages that are still to come will not; empty if they will."""
        return self._lost or (self._pager.damage() if self._pager else "")

    def drain(self) -> None:
        """The container runs: brings everything."""
        if self._pager:
            self._pager.drain()

    async def complete(self) -> None:
        """Returns when all memory is there, and the image gone. Raises CriuError when it can not be completed."""
        if self._pager:
            await self._done.wait()
            if self._lost:
                raise CriuError(self._lost)
            self._pager = None
        self._container.store.drop_images()

    async def lost(self) -> None:
        """Returns when the memory can not be completed any more; for ever if it can."""
        await self._done.wait()
        if not self._lost:
            await trio.sleep_forever()

    async def kill(self) -> None:
        """Ends the pager of processes that are gone."""
        if self._pager:
            await self._pager.kill()
            await self._done.wait()
            self._pager = None
