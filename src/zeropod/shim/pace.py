"""The pace of falling asleep: in the background while nobody waits, and as quick as anything once somebody does.

A dump takes CPU and disk from those who are awake, so its programs get little of both. But the container stands still
meanwhile, and whoever comes for it waits for the end.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from zeropod.activator.first import first_of
from zeropod.kernel import priority

PATIENCE = 10.0
"""Seconds in the background after which it hurries in any case: on a node whose CPUs are all busy it would not end."""


class Pace:
    """Of one fall into sleep."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._hurried = False
        self._programs: list[int] = []
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()

    def dumps(self, pid: int) -> None:
        """A program that writes has been started."""
        self._has_started(pid, disk=True)

    def restores(self, pid: int) -> None:
        """A program that brings processes back: they would keep its share of the disk, while CRIU sees to the CPU's."""
        self._has_started(pid, disk=False)

    def _has_started(self, pid: int, *, disk: bool) -> None:
        if not self._hurried:
            self._programs = [pid]  # one after the other: what ran before has ended
            priority.lower(pid, disk=disk)

    def watch(self, *wanted: Callable[[], Awaitable[object]]) -> None:
        """From now on the first of these is a reason to hurry, and so is that it takes long; until `end`."""
        self._scope = trio.CancelScope()
        self._nursery.start_soon(self._watch, self._scope, wanted)

    async def _watch(self, scope: trio.CancelScope, wanted: tuple[Callable[[], Awaitable[object]], ...]) -> None:
        with scope:
            with suppress(OSError):  # what cannot be watched any more may be waited for
                with trio.move_on_after(PATIENCE):
                    await first_of(*wanted)
            self._hurried = True
            for pid in self._programs:
                priority.raise_all(pid)
        self._ended.set()

    async def end(self) -> None:
        """Watches no longer: what is watched may be closed after this."""
        if self._scope:
            self._scope.cancel()
            with trio.CancelScope(shield=True):
                await self._ended.wait()
