"""Brings a container's processes back out of its image, and all of their memory after them.

Lazily first: the processes exist at once, and a pager brings a page when it is touched. The image stays until the last
page is in. What was touched first after a wake is remembered, for the next pager to bring beforehand.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from zeropod import paths
from zeropod.concurrency import TaskStarter
from zeropod.lifecycle.cold.attempt import Attempt
from zeropod.lifecycle.cold.terminate import Silence
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.strategy import Workload
from zeropod.runtime import criu, ipcns
from zeropod.runtime.cgroups import CgroupError
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.pager import Pager, PagerLost, WorkingSet, listen
from zeropod.runtime.tmpfs import KeptMounts

FORGET = 60.0
"""Seconds after which an image that will not be read is taken out of the page cache: by then the kernel has written it
to the disk by itself, and one of a container that has woken sooner need not be written at all."""

LATER = 1.0
"""Seconds after a wake in which its image stays: others of the node may be waking up now, and they come first."""


class Restorer:
    def __init__(self, workload: Workload, nursery: TaskStarter, silence: Silence) -> None:
        self._workload = workload
        self._silence = silence
        self._nursery = nursery
        self._pager: Pager | None = None
        self._done = trio.Event()
        """Set when the present pager, if there is one, has ended."""
        self._lost = ""
        """Why the memory can not be completed any more."""
        self._stay = trio.CancelScope()
        """Ends with the present restore's image."""
        self._working_set: WorkingSet = ()
        self._dump_waits = trio.Event()
        """Set where the present image has to be gone."""
        self._dropped = trio.Event()
        """Set when it is."""
        self._dropped.set()
        self.kept = KeptMounts(paths.tmpfs(workload.runc.namespace, workload.id))
        """What does not go through the image."""

    async def restore(
        self, *, lazy: bool, before_it_runs: Callable[[InitProcess], Awaitable[None]] | None = None
    ) -> InitProcess:
        """Bring the processes back, and have something done with them before they run.

        Raises CriuError, and then nothing is left of it but the image; so it is with what `before_it_runs` raises.
        """
        workload, store = self._workload, self._workload.store
        attempt, listener = Attempt(workload, self._working_set, self._silence), None
        try:
            store.prepare_restore()
            workload.configure_criu(stopped=before_it_runs is not None, more=self.kept.for_restore())
            if ipc := workload.spec.namespaces.get("ipc"):
                ipcns.clear(store.images, ipc)
            if lazy:
                listener = listen(store.work)
            options = criu.restore_options(lazy=lazy, tcp_established=workload.settings.tcp_established)
            restored = await attempt.run(options, listener)
            if before_it_runs:
                await before_it_runs(restored)
                _continue(restored)
            workload.configure_criu()  # what is for this restore alone must not get into the next dump
        except BaseException as error:
            try:
                self.kept.has_failed()
            except OSError as failure:  # what is left of it must be ended all the same
                workload.log.warning("cannot take back its tmpfs mounts, the next restore does: %s", failure)
            await attempt.undo()
            if isinstance(error, RuncError | OSError | CgroupError):
                raise criu.explain(store.work / "restore.log", error) from error
            raise
        finally:
            if listener:
                listener.close()
        pager = attempt.pager
        self._pager, self._lost, self._done, self._stay = pager, "", trio.Event(), trio.CancelScope()
        if pager:
            self._nursery.start_soon(self._bring, pager, self._done)
        else:
            self._done.set()
        return restored

    def tidy(self) -> None:
        """Take away what only CRIU needed, in some milliseconds; after a restore, when nothing waits any more."""
        init_process = self._workload.init_process
        try:
            self.kept.has_restored(init_process.pids() if init_process else ())
        except OSError as error:
            self._workload.log.warning("something of its restore is left, until the next or its deletion: %s", error)

    async def _bring(self, pager: Pager, done: trio.Event) -> None:
        try:
            await pager.run()
        except PagerLost as reason:
            self._lost = str(reason)
        finally:  # what waits for it must not wait for ever when all that the container has is cancelled
            done.set()
        self._working_set = pager.working_set
        if not self._lost:
            await self._forget()

    async def _forget(self) -> None:
        """All memory is in. If that is so before the wake, the image is of use only where standby fails."""
        with self._stay:
            await trio.sleep(FORGET)
            with suppress(OSError):
                self._workload.store.forget_pages()

    def drain(self) -> None:
        """The container runs: brings everything."""
        if self._pager:
            self._pager.drain()

    async def complete(self) -> None:
        """Returns when all memory is there; the image follows later. Raises CriuError when it can not be completed."""
        if self._pager:
            await self._done.wait()
            if self._lost:
                raise CriuError(self._lost)
            self._pager = None
        self._stay.cancel()
        if self._dropped.is_set():
            self._dump_waits, self._dropped = trio.Event(), trio.Event()
            self._nursery.start_soon(self._drop_image)

    async def _drop_image(self) -> None:
        with trio.move_on_after(LATER):
            await self._dump_waits.wait()
        # Some hundred milliseconds for gigabytes, in which other containers of the pod may have to be woken.
        await trio.to_thread.run_sync(self._workload.store.drop_images)
        self._dropped.set()

    async def dropped(self) -> None:
        """Returns when the last image is gone, which is now: the next one takes its place."""
        self._dump_waits.set()
        await self._dropped.wait()


def _continue(init_process: InitProcess) -> None:
    """Let processes run that CRIU has left stopped."""
    for pid in init_process.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
