"""The priority of a dump: in the background as long as nothing waits for it, the usual one as soon as something does.

A dump takes CPU and disk from containers that are awake, so its programs get little of both. But what comes for its own
container meanwhile waits for its end. A kernel that refuses a change of priority costs time, nothing else.
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
        """Take note of a program that has been started; the one before has ended."""
        if self._is_raised:
            return
        self._program = pid
        try:
            priority.lower(pid)
        except OSError as error:
            self._log.warning("cannot put a dump into the background: %s", error)

    def watch(self, *wanted: Callable[[], Awaitable[object]]) -> None:
        """From now on take the usual priority as soon as the first of these returns, or it takes long; until `end`."""
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._scope, wanted)

    async def _watch(self, scope: trio.CancelScope, wanted: tuple[Callable[[], Awaitable[object]], ...]) -> None:
        try:
            with scope:
                with suppress(OSError):  # what cannot be watched any more may be waited for
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
        """Watch no longer: what is watched may be closed after this."""
        if self._scope:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
