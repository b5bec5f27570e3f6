"""One dump. As much as possible is done before requests have to wait for it.

runc and CRIU take long to start: runc itself, CRIU to report its version, CRIU again for the dump. So they are started
while the container can still be thawed. CRIU then blocks where it reads its configuration, before it touches the
container, until connections are held and nothing has arrived at the last moment.
"""

from collections.abc import Sequence

import trio

from zeropod.concurrency import race
from zeropod.kernel.fifo_barrier import FifoBarrier
from zeropod.lifecycle.strategy import Workload
from zeropod.runtime.command import Started
from zeropod.runtime.errors import RuncError
from zeropod.runtime.programs import UNFINISHED

DUMP = 60.0
"""Seconds for one dump; requests wait during it."""

FINISHED = " skip\n"
"""The value of that option."""


class Dump:
    def __init__(self, workload: Workload, options: Sequence[str], text: str, started: Started) -> None:
        """`text` is CRIU's configuration. Raises OSError."""
        self._workload = workload
        self._options = options
        self._text = text
        self._started = started
        # Another runtime may not read the configuration at all: it is started only after connections are held.
        self._barrier = FifoBarrier(workload.store.config, UNFINISHED) if workload.runc.is_runc else None
        self.is_ready = False
        """Whether CRIU waits for `go`. Without a reader, writing the configuration would have no effect."""
        self._scope = trio.CancelScope()
        self._go = trio.Event()
        self._ended = trio.Event()
        self._failure: RuncError | None = None

    async def run(self) -> None:
        """Run the dump until it ends or `stop` is called."""
        workload = self._workload
        try:
            with self._scope:
                if self._barrier is None:
                    await self._go.wait()
                await workload.runc.checkpoint(
                    workload.id, workload.store.images, workload.store.work, self._options, DUMP, self._started
                )
        except RuncError as error:
            self._failure = error
        finally:  # on cancellation, too: `stop` waits for this
            self._ended.set()

    async def ready(self) -> None:
        """Return when CRIU waits for `go`. Raises RuncError if it ends before."""
        if self._barrier:
            await race(self._ended.wait, self._barrier.reached)
            if self._ended.is_set():
                raise self._failure or RuncError("the dump was over before it had begun")
        self.is_ready = True

    async def go(self) -> None:
        """Let CRIU dump the frozen container, which ends its processes. Raises RuncError, OSError."""
        if self._barrier:
            self._barrier.let_through(FINISHED + self._text)
        else:
            self._workload.store.config.write_text(self._text)
        self._go.set()
        await self._ended.wait()
        if self._failure:
            raise self._failure

    async def stop(self) -> None:
        """End the dump wherever it is. The container may run only afterwards."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        if self._barrier:
            self._barrier.close()
