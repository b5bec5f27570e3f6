"""One attempt to restore: runc with CRIU on one side, the pager that serves the memory on the other.

Processes that CRIU restores touch memory before they run, and wait for the pager. If it dies, CRIU would wait for ever;
so the attempt ends when either of the two ends.
"""

import socket
from collections.abc import Sequence
from pathlib import Path

import trio

from zeropod.concurrency import race
from zeropod.lifecycle.cold.terminate import Silence, cleanup_failed_restore, kill_until_cancelled
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.strategy import Workload
from zeropod.runtime.errors import CriuError, RuncError
from zeropod.runtime.pager import Pager, WorkingSet

RESTORE = 60.0
"""Seconds for one attempt."""


class Attempt:
    def __init__(self, workload: Workload, images: Path, wanted: WorkingSet, silence: Silence) -> None:
        """Out of the image in `images`. `wanted` is for the pager; `silence` for what has to be undone."""
        self._workload = workload
        self._images = images
        self._wanted = wanted
        self._silence = silence
        self._init_process: InitProcess | None = None
        self._has_pager = trio.Event()
        self._unserved = False
        self.pager: Pager | None = None
        """The pager of a lazy restore, once it has started."""

    async def run(self, options: Sequence[str], listener: socket.socket | None) -> InitProcess:
        """Restore once, with a pager if there is a `listener`, which is closed. Raises CriuError, RuncError,
        OSError."""
        try:
            self._init_process = await race(lambda: self._restore(options, listener), self._give_up)
        except RuncError as error:
            if self._unserved:
                raise CriuError("the pager died while CRIU restored") from error
            raise
        if self._unserved:
            raise CriuError("the pager died as CRIU had restored")
        if self.pager:
            await self.pager.guarded()
        return self._init_process

    async def _restore(self, options: Sequence[str], listener: socket.socket | None) -> InitProcess:
        workload, store = self._workload, self._workload.store

        def has_started(_pid: int) -> None:
            # The pager starts faster than runc and CRIU get to the point where they connect to it.
            if listener:
                with listener:  # which is the pager's alone: where it has died, CRIU shall not wait
                    self.pager = Pager.at(listener, self._images, self._wanted, say=workload.log.warning)
                self._has_pager.set()

        init_process = await workload.restore(self._images, store.work, options, RESTORE, has_started)
        init_process.exit_expected = self._unserved
        return init_process

    async def _give_up(self) -> InitProcess:
        """Wait for the death of the pager, then kill CRIU, but not runc, which then fails and undoes its mounts."""
        await self._has_pager.wait()
        assert self.pager is not None
        await self.pager.died()
        self._unserved = True
        await kill_until_cancelled(self._workload, self._silence)

    async def undo(self) -> None:
        """Undo everything of the attempt except the image."""
        if self._init_process:
            self._init_process.exit_expected = True
        with trio.CancelScope(shield=True):
            await cleanup_failed_restore(self._workload, self._silence)
            if self.pager:  # not before: processes that wait for it would read zeroes
                await self.pager.kill()
