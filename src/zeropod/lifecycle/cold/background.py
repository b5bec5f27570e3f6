"""The priority of a dump: low as long as no request waits for it, normal as soon as one does.

A dump takes CPU and disk from awake containers, so its programs run at low priority. But connections to its own
container have to wait for its end. If the kernel refuses a change of priority, the dump only takes longer.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from zeropod.concurrency import TaskStarter, race
from zeropod.kernel import priority

BACKGROUND_SECONDS = 10.0
"""Seconds after which it leaves the background in any case: on a node whose CPUs are all busy it would not end."""


class BackgroundPriority:
    """The priority of one dump."""

    def __init__(self, nursery: TaskStarter, log: "logging.LoggerAdapter[logging.Logger]") -> None:
        self._nursery = nursery
        self._log = log
        self._is_raised = False
        self._program: int | None = None
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    def lower(self, pid: int) -> None:
        """Lower the priority of a program that was just started; the one before has ended."""
        if self._is_raised:
            return
        self._program = pid
        try:
            priority.lower(pid)
        except OSError as error:
            self._log.warning("cannot put a dump into the background: %s", error)

    def watch(self, *wanted: Callable[[], Awaitable[object]]) -> None:
        """Raise the priority when the first of `wanted` returns or after BACKGROUND_SECONDS, until `end` is called."""
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._scope, wanted)

    async def _watch(self, scope: trio.CancelScope, wanted: tuple[Callable[[], Awaitable[object]], ...]) -> None:
        try:
            with scope:
                with suppress(OSError):  # if watching fails, a request may be waiting
                    with trio.move_on_after(BACKGROUND_SECONDS):
                        await race(*wanted)
                self._raise()
        finally:
            self._ended.set()

    def _raise(self) -> None:
        self._is_raised = True
        try:
            if self._program is not None:
                priority.raise_all(self._program)
        except OSError as error:  # without CAP_SYS_NICE
            self._log.warning(
                "cannot raise the priority of a dump that is waited for, it goes on in the background: %s", error
            )

    async def end(self) -> None:
        """Stop watching; the watched objects may be closed afterwards."""
        if self._scope:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
