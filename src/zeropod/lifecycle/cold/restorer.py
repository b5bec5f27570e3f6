"""Restore a container's processes from its image, and all of their memory after them.

The first attempt is lazy: the processes run at once, and a pager brings in each page when it is touched; the image
stays until the last page is in. Pages that were touched first after a wake are remembered, for the next pager to
prefetch.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

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
"""Seconds after which an image that will not be read is dropped from the page cache. By then the kernel has written it
to disk by itself; if the container wakes earlier, that write is avoided."""

LATER = 1.0
"""Seconds after a wake until its image is deleted: other containers of the node may be waking up now, and have
priority."""


class Restorer:
    def __init__(self, workload: Workload, nursery: TaskStarter, silence: Silence) -> None:
        self._workload = workload
        self._silence = silence
        self._nursery = nursery
        self._pager: Pager | None = None
        self._done = trio.Event()
        """Set when the current pager, if any, has ended."""
        self._lost = ""
        """Why the memory cannot be completed any more."""
        self._stay = trio.CancelScope()
        """Cancelled when the image of the current restore is not needed any more."""
        self._working_set: WorkingSet = ()
        self._dump_waits = trio.Event()
        """Set when the next dump needs the place of the current image."""
        self._dropped = trio.Event()
        """Set when the image is deleted."""
        self._dropped.set()
        self.kept = KeptMounts(paths.tmpfs(workload.runc.namespace, workload.id))
        """Mounts that do not go through the image."""

    async def restore(
        self,
        *,
        lazy: bool,
        before_it_runs: Callable[[InitProcess], Awaitable[None]] | None = None,
        images: Path | None = None,
        runs: bool = True,
    ) -> InitProcess:
        """Bring the processes back, and have something done with them before they run, or instead.

        `images`: another image than the container's own. Without `runs` they stay stopped after `before_it_runs`.

        Raises CriuError, or the exception of `before_it_runs`; then only the image is left.
        """
        workload, store = self._workload, self._workload.store
        images = images or store.images
        attempt, listener = Attempt(workload, images, self._working_set, self._silence), None
        try:
            store.prepare_restore()
            workload.configure_criu(stopped=before_it_runs is not None, more=self.kept.for_restore())
            if ipc := workload.spec.namespaces.get("ipc"):
                ipcns.clear(images, ipc)
            if lazy:
                listener = listen(store.work)
            options = criu.restore_options(lazy=lazy, tcp_established=workload.keeps_connections)
            restored = await attempt.run(options, listener)
            if before_it_runs:
                await before_it_runs(restored)
                if runs:
                    let_run(restored)
            workload.configure_criu()  # what is for this restore alone must not get into the next dump
        except BaseException as error:
            try:
                self.kept.has_failed()
            except OSError as failure:  # the rest must be undone all the same
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
        """Take away what only CRIU needed, in some milliseconds; call it after a restore, when no request waits."""
        init_process = self._workload.init_process
        try:
            self.kept.has_restored(init_process.pids() if init_process else ())
        except OSError as error:
            self._workload.log.warning(
                "cannot clean up after its restore, the rest stays until the next one or its deletion: %s", error
            )

    async def _bring(self, pager: Pager, done: trio.Event) -> None:
        try:
            await pager.run()
        except PagerLost as reason:
            self._lost = str(reason)
        finally:  # or waiters would hang when all tasks of the container are cancelled
            done.set()
        self._working_set = pager.working_set
        if not self._lost:
            await self._forget()

    async def _forget(self) -> None:
        """Drop the image from the page cache after a while. All memory is in, so the image is needed only if STANDBY
        fails."""
        with self._stay:
            await trio.sleep(FORGET)
            with suppress(OSError):
                self._workload.store.forget_pages()

    def drain(self) -> None:
        """Bring in all pages: the container runs."""
        if self._pager:
            self._pager.drain()

    async def complete(self) -> None:
        """Return when all memory is in; the image is deleted later. Raises CriuError if memory is lost."""
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
        # Deleting gigabytes takes some hundred milliseconds, in which other containers of the pod may have to wake.
        await trio.to_thread.run_sync(self._workload.store.drop_images)
        self._dropped.set()

    async def dropped(self) -> None:
        """Delete the last image at once, and return when it is gone: the next one takes its place."""
        self._dump_waits.set()
        await self._dropped.wait()


def let_run(init_process: InitProcess) -> None:
    """Let processes run that CRIU has left stopped."""
    for pid in init_process.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
