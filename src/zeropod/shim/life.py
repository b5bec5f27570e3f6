"""The mutable part of a container's life: its state, since when, and what keeps it awake.

Everybody who waits for a change waits here, and only here is a state changed.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from zeropod.shim.lifecycle import State


class Life:
    def __init__(self) -> None:
        self.state = State.CREATED
        self.since_ns = time.time_ns()
        self.tell: Callable[[], None] = lambda: None
        """Called at every change that somebody outside of the shim may want to hear of."""
        self._why = ""
        self._message = ""
        self.pretended: State | None = None
        """The state that it would be in, were it not for `dry-run`; None if that is its real one."""
        self.wake_wanted = trio.Event()
        """Set by who needs the sleeping container awake."""
        self.doze_wanted = trio.Event()
        """Set by who needs the container in standby for a moment."""
        self.sleep_wanted = trio.Event()
        """Set by who wants it to sleep without waiting for its idle time; until the next attempt has ended."""
        self._changed = trio.Event()
        self._holds: list[str] = []

    @property
    def why(self) -> str:
        """Why it is not asleep, in words for `zeropod ps`."""
        return self._why

    @why.setter
    def why(self, text: str) -> None:
        if text != self._why:
            self._why = text
            self.tell()

    @property
    def message(self) -> str:
        """The last failure, in words."""
        return self._message

    @message.setter
    def message(self, text: str) -> None:
        self._message = text
        self.tell()

    def enter(self, state: State) -> None:
        if self.state is State.RUNNING and state is State.CHECKPOINTING:
            self.wake_wanted = trio.Event()
        if state is State.DOZING:
            self.doze_wanted = trio.Event()
        self.state = state
        self.since_ns = time.time_ns()
        if state in (State.STANDBY, State.COLD):
            self.why = ""
        self._notify()

    @contextmanager
    def kept_awake(self, reason: str) -> Iterator[None]:
        """Inside, the container does not fall asleep; one that sleeps is not woken by this alone."""
        self._holds.append(reason)
        self._notify()
        try:
            yield
        finally:
            self._holds.remove(reason)
            self._notify()

    @property
    def holds(self) -> tuple[str, ...]:
        """All that keeps it awake."""
        return tuple(self._holds)

    @property
    def held_by(self) -> str:
        """What keeps it awake; empty if nothing does."""
        return self._holds[0] if self._holds else ""

    async def held(self) -> None:
        """Returns when something keeps it awake."""
        while not self._holds:
            await self.changed()

    async def changed(self) -> None:
        """Returns at the next change of the state or of what keeps it awake."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.tell()
