"""One dump: as much of it as can be is done before the container is frozen, since what comes then has to wait.

runc and CRIU take a good part of their time to start: runc itself, CRIU to say its version, CRIU once more. So they are
started while the container runs, and CRIU is stopped where it reads its configuration, which is before it looks at the
container. There it waits until that is frozen, its connections are held, and nothing has come at the last moment.
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
"""Seconds for a dump, during which requests wait."""

FINISHED = " skip\n"
"""The value of that option."""


class Dump:
    def __init__(self, workload: Workload, options: Sequence[str], text: str, started: Started) -> None:
        """`text` is CRIU's configuration. Raises OSError."""
        self._workload = workload
        self._options = options
        self._text = text
        self._started = started
        # Another runtime may not look at the configuration at all: it is not started before everything is held.
        self._barrier = FifoBarrier(workload.store.config, UNFINISHED) if workload.runc.is_runc else None
        self.is_ready = False
        """Whether CRIU waits for `go`; without a reader, what is written would be lost."""
        self._scope = trio.CancelScope()
        self._go = trio.Event()
        self._ended = trio.Event()
        self._failure: RuncError | None = None

    async def run(self) -> None:
        """In the background, until `stop` or the end."""
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
        finally:  # also when all that the container has is cancelled: `stop` waits for this, come what may
            self._ended.set()

    async def ready(self) -> None:
        """Returns when CRIU waits for `go`. Raises RuncError when it has not come that far."""
        if self._barrier:
            await race(self._ended.wait, self._barrier.reached)
            if self._ended.is_set():
                raise self._failure or RuncError("the dump was over before it had begun")
        self.is_ready = True

    async def go(self) -> None:
        """The container is frozen: dumps it, which ends its processes. Raises RuncError, OSError."""
        if self._barrier:
            self._barrier.let_through(FINISHED + self._text)
        else:
            self._workload.store.config.write_text(self._text)
        self._go.set()
        await self._ended.wait()
        if self._failure:
            raise self._failure

    async def stop(self) -> None:
        """Ends it, wherever it is; the container is let run only after that."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        if self._barrier:
            self._barrier.close()
