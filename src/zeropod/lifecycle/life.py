"""The mutable part of a container's life: its state, since when, and what inhibits its sleep.

Owns the one place where the state changes, by the table of `machine`, and where everything waits for a change.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from zeropod.lifecycle.machine import Action, Event, State, transition
from zeropod.lifecycle.reasons import Explanation


class Life:
    def __init__(self) -> None:
        self.state = State.CREATED
        self.since_ns = time.time_ns()
        self.tell: Callable[[], None] = lambda: None
        """Called at every change that is of interest outside of the shim."""
        self._explanation: Explanation | None = None
        self._failure: Explanation | None = None
        self.pretended: State | None = None
        """The state that it would be in, were it not for `dry-run`; None if that is its real one."""
        self.wake_wanted = trio.Event()
        """Set where the sleeping container is needed awake."""
        self.nap_wanted = trio.Event()
        """Set where the container in STANDBY is needed for a moment."""
        self.sleep_wanted = trio.Event()
        """Set where it is to sleep without waiting for its idle time; until the next attempt has ended."""
        self._changed = trio.Event()
        self._inhibitors: list[Explanation] = []

    @property
    def explanation(self) -> Explanation | None:
        """Why it is not asleep, or not as deep as it could be."""
        return self._explanation

    @explanation.setter
    def explanation(self, explanation: Explanation | None) -> None:
        if explanation != self._explanation:
            self._explanation = explanation
            self._notify()

    @property
    def why(self) -> str:
        """Return the explanation in words for `zeropod ps`; empty if there is nothing to say."""
        return str(self._explanation or "")

    @property
    def failure(self) -> Explanation | None:
        """The last failure."""
        return self._failure

    @failure.setter
    def failure(self, explanation: Explanation) -> None:
        self._failure = explanation
        self.tell()

    @property
    def message(self) -> str:
        """The last failure in words; empty if there was none."""
        return str(self._failure or "")

    def happen(self, event: Event) -> tuple[Action, ...]:
        """Enter the state that follows from an event, and return what is to be done. Raises IllegalTransition."""
        row = transition(self.state, event)
        if self.state is State.RUNNING and row.next is State.CHECKPOINTING:
            self.wake_wanted, self.nap_wanted = trio.Event(), trio.Event()
        if row.next is State.DOZING:
            self.nap_wanted = trio.Event()
        self.state = row.next
        self.since_ns = time.time_ns()
        if row.next in (State.STANDBY, State.COLD):
            self._explanation = None
        self._notify()
        return row.actions

    def end_attempt(self) -> None:
        """Whatever came of the attempt to sleep, what has asked for it and waits need not wait any longer."""
        self.sleep_wanted = trio.Event()
        self._notify()

    @contextmanager
    def inhibit(self, why: Explanation) -> Iterator[None]:
        """Inside, the container does not fall asleep; one that sleeps is not woken by this alone."""
        self._inhibitors.append(why)
        self._notify()
        try:
            yield
        finally:
            self._inhibitors.remove(why)
            self._notify()

    def inhibit_for_good(self, why: Explanation) -> None:
        """From now on it does not fall asleep any more."""
        if why not in self._inhibitors:
            self._inhibitors.append(why)
            self._notify()

    @property
    def inhibitors(self) -> tuple[Explanation, ...]:
        """All that inhibits its sleep, the oldest first."""
        return tuple(self._inhibitors)

    @property
    def inhibited_by(self) -> str:
        """The oldest in words; empty if nothing inhibits its sleep."""
        return str(self._inhibitors[0]) if self._inhibitors else ""

    async def inhibited(self) -> None:
        """Return when something inhibits its sleep."""
        while not self._inhibitors:
            await self.changed()

    async def changed(self) -> None:
        """Return at the next change of the state, of what inhibits its sleep or of the explanation."""
        await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
        self.tell()
