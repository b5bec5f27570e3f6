"""One attempt to restore: runc with CRIU on the one side, the pager that is to bring the memory on the other.

What CRIU restores touches its memory before it runs, and waits for it. If the pager dies, CRIU would wait for that for
ever, and we for CRIU; so whichever of the two ends first decides.
"""

import socket
from collections.abc import Sequence

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
    def __init__(self, workload: Workload, wanted: WorkingSet, silence: Silence) -> None:
        """`wanted` is for the pager; `silence` for what has to be undone."""
        self._workload = workload
        self._wanted = wanted
        self._silence = silence
        self._init_process: InitProcess | None = None
        self._has_pager = trio.Event()
        self._unserved = False
        self.pager: Pager | None = None
        """Of a lazy restore, once that has begun."""

    async def run(self, options: Sequence[str], listener: socket.socket | None) -> InitProcess:
        """With a pager if there is a `listener` for it, which is closed. Raises CriuError, RuncError, OSError."""
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
            # runc takes longer to get to the point where CRIU asks for the pager than the pager takes to be there.
            if listener:
                with listener:  # which is the pager's alone: where it has died, CRIU shall not wait
                    self.pager = Pager.at(listener, store.images, self._wanted, say=workload.log.warning)
                self._has_pager.set()

        init_process = await workload.restore(store.images, store.work, options, RESTORE, has_started)
        init_process.exit_expected = self._unserved
        return init_process

    async def _give_up(self) -> InitProcess:
        """When the pager has died. It ends CRIU, too, but not runc, which has mounts to undo; that fails then."""
        await self._has_pager.wait()
        assert self.pager is not None
        await self.pager.died()
        self._unserved = True
        await kill_until_cancelled(self._workload, self._silence)

    async def undo(self) -> None:
        """Leaves nothing of it but the image."""
        if self._init_process:
            self._init_process.exit_expected = True
        with trio.CancelScope(shield=True):
            await cleanup_failed_restore(self._workload, self._silence)
            if self.pager:  # not before: what waits for it would read zeroes
                await self.pager.kill()
