"""Run the actions of the state machine for one container and one strategy, from each event to the next.

Owns the loop, the order within each action, the cause of a wake, the length of a nap, and the pauses between attempts.
`IdleMonitor` decides when to sleep, a `SleepStrategy` how. Exceptions raised here are handled by the controller.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from zeropod.concurrency import race
from zeropod.lifecycle.dry_run import pretend
from zeropod.lifecycle.idle.monitor import IdleMonitor, look_at_life, require_idle
from zeropod.lifecycle.idle.policy import Idle, decide
from zeropod.lifecycle.machine import Action, Event, Life, State, transition
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.reservation import DiskBudgetExceeded
from zeropod.lifecycle.strategy import CheckpointFailed, ContainerLost, NotIdle, SleepStrategy, Workload

LONGEST_NAP = 10.0
"""Seconds after which a nap becomes a wake: no probe takes that long."""

RECHECK = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between attempts after failures; the last one for all further ones."""

REBUILD = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds after an unexpected failure of the sleep machinery until it is set up anew; the last one for further ones."""

BUSY = 1.0
"""Seconds until the next check of a container that was in use after all."""

CAUSES = {
    Event.CONNECTION: "a new connection",
    Event.DATA: "data",
    Event.PROBE: "a health probe that only it can answer",
    Event.WANTED: "a request",
    Event.WANTED_SHORTLY: "a request",
    Event.FAILED: "a failure of the sleep machinery",
}
"""The cause of a wake, in words for the log."""


class BackOff:
    """The pauses between attempts to put one container to sleep."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._failures = 0
        """Attempts that failed in a row."""
        self._rebuilds = 0
        """Unexpected failures since it last slept."""
        self.next_attempt_ns = 0
        """Earliest time of the next attempt after a failure, in nanoseconds since 1970; 0 without a failure."""

    def slept(self) -> None:
        """Reset the pauses: an attempt has succeeded."""
        self._failures = self._rebuilds = 0

    def after_failure(self) -> float:
        """Count a failed attempt, and return the seconds until the next one."""
        self._failures += 1
        return _pause(RECHECK, self._failures)

    def after_unexpected_failure(self) -> float:
        """Count an unexpected failure, and return the seconds until the sleep machinery is set up anew."""
        self._rebuilds += 1
        return _pause(REBUILD, self._rebuilds)

    async def pause(self, seconds: float) -> None:
        """End the attempt, and return when the next one is due or requested."""
        self._life.end_attempt()
        with trio.move_on_after(seconds):
            await race(self._life.sleep_wanted.wait, self._life.leave_wanted.wait)

    async def pause_after_failure(self, seconds: float) -> None:
        """Pause, and expose the time of the next attempt meanwhile."""
        self.next_attempt_ns = time.time_ns() + round(seconds * 1e9)
        try:
            await self.pause(seconds)
        finally:
            self.next_attempt_ns = 0


def _pause(pauses: Sequence[float], number: int) -> float:
    return pauses[min(number, len(pauses)) - 1]


class Actions:
    def __init__(self, workload: Workload, strategy: SleepStrategy, monitor: IdleMonitor, back_off: BackOff) -> None:
        self._workload = workload
        self._strategy = strategy
        self._monitor = monitor
        self._back_off_after = back_off
        self._failure: NotIdle | CheckpointFailed | None = None
        """Why the last attempt failed."""
        self._nap_ends = 0.0
        self._woken_at = 0.0
        self._cause = ""
        """The cause of the wake, in words, until it is logged."""
        self._perform: dict[Action, Callable[[], Awaitable[Event | None]]] = {
            Action.AWAIT_IDLE: self._await_idle,
            Action.BACK_OFF: self._back_off,
            Action.FREEZE: self._freeze,
            Action.MOVE_OUT: self._move_out,
            Action.AWAIT_ARRIVAL: self._await_arrival,
            Action.THAW: self._thaw,
            Action.NAP: self._nap,
            Action.REFREEZE: self._refreeze,
            Action.DUMP: self._dump,
            Action.BRING_TO_REST: self._bring_to_rest,
            Action.EXPORT: self._export,
            Action.RESTORE: self._restore,
        }

    async def run(self, row: tuple[Action, ...] = (Action.AWAIT_IDLE,)) -> None:
        """From actions to the event that comes of them to the next actions, until something unexpected is raised."""
        while True:
            event: Event | None = None
            for action in row:
                event = await self._perform[action]()
            assert event is not None, "the last action of a row returns an event"
            row = self._workload.life.happen(event)
            self._note(event)

    def _note(self, event: Event) -> None:
        """Log and count a change of state."""
        workload, strategy = self._workload, self._strategy
        life, metrics = workload.life, workload.metrics
        match event:
            case Event.FROZEN if self._nap_ends:
                self._nap_ends, self._cause = 0.0, ""
            case Event.FROZEN | Event.DUMPED:
                self._back_off_after.slept()
                metrics.standby_sleeps += event is Event.FROZEN
                metrics.cold_sleeps += event is Event.DUMPED
                metrics.slept(time.monotonic() - strategy.frozen_at, time.time_ns())
                life.end_attempt()
                workload.log.info("sleeps (%s), after %.0f ms", life.state.name, metrics.last_checkpoint * 1000)

    # Awake

    async def _await_idle(self) -> Event:
        """Return QUIET when the container may sleep."""
        workload, strategy, monitor = self._workload, self._strategy, self._monitor
        life = workload.life
        while True:
            if life.state is State.RUNNING:
                await strategy.ready()
                life.tell()
            await race(monitor.idle, life.sleep_wanted.wait, life.leave_wanted.wait)
            if life.departure:
                if life.departure.live and not life.departure.is_over and life.state is State.RUNNING:
                    return Event.LEAVE
                life.departure.refuse(Reason.AWAKE.because())
                life.stay()
                continue
            if workload.settings.dry_run:
                await pretend(workload, monitor)
                continue
            try:
                if isinstance(decide(look_at_life(life)), Idle):
                    await strategy.pass_probes()
                require_idle(look_at_life(life))
            except NotIdle as busy:
                life.explanation = busy.explanation
                await self._back_off_after.pause(BUSY)
                continue
            return Event.QUIET

    async def _back_off(self) -> None:
        workload, failure, self._failure = self._workload, self._failure, None
        explanation = failure.explanation if failure else Reason.FAILED.because()
        workload.life.explanation = explanation
        if isinstance(failure, NotIdle):
            await self._back_off_after.pause(BUSY)
            return
        workload.life.failure = explanation
        refused = isinstance(failure, DiskBudgetExceeded)
        if refused:
            workload.metrics.refused_sleeps += 1
        else:
            workload.metrics.checkpoint_errors += 1
        pause = self._back_off_after.after_failure()
        level = logging.WARNING if refused else logging.ERROR
        workload.log.log(level, "stays awake, next attempt in %g s at the earliest: %s", pause, explanation)
        await self._back_off_after.pause_after_failure(pause)

    # Down

    async def _attempt(self, step: Callable[[], Awaitable[Event]]) -> Event:
        """Return the event of a step; keep its NotIdle or CheckpointFailed for the back-off."""
        try:
            return await step()
        except (NotIdle, CheckpointFailed) as failure:
            self._failure = failure
            return Event.NOT_IDLE if isinstance(failure, NotIdle) else Event.FAILED

    async def _freeze(self) -> Event:
        return await self._attempt(self._strategy.freeze)

    async def _move_out(self) -> None:
        self._strategy.move_out()

    async def _bring_to_rest(self) -> Event:
        return await self._attempt(self._strategy.bring_to_rest)

    async def _export(self) -> None:
        await self._strategy.export()

    async def _dump(self) -> Event:
        event = await self._attempt(self._strategy.dump)
        self._woken_by(event)
        return event

    # Asleep

    async def _await_arrival(self) -> Event:
        strategy, life = self._strategy, self._workload.life
        if strategy.why_kept:
            life.explanation = strategy.why_kept
        try:
            event: Event = await race(
                self._wanted, self._wanted_shortly, *strategy.arrivals(), on_first=partial(self._thaw_early, strategy)
            )
        except OSError as error:
            self._failure = CheckpointFailed(Reason.CANNOT_WATCH.because(error))
            self._workload.log.warning("cannot watch its open files, waking it: %s", error)
            event = Event.FAILED
        self._woken_by(event)
        return event

    def _thaw_early(self, strategy: SleepStrategy, event: Event) -> None:
        # Latency matters: nothing else is done before the thaw.
        if self._workload.life.state is State.STANDBY and transition(State.STANDBY, event).next is State.RUNNING:
            self._woken_at = time.monotonic()
            strategy.thaw()

    def _woken_by(self, event: Event) -> None:
        if event in CAUSES:
            inhibited = self._workload.life.inhibited_by
            self._cause = CAUSES[event] + (f" ({inhibited})" if inhibited else "")

    async def _wanted(self) -> Event:
        await self._workload.life.wake_wanted.wait()
        return Event.WANTED

    async def _wanted_shortly(self) -> Event:
        await self._workload.life.nap_wanted.wait()
        return Event.WANTED_SHORTLY

    async def _thaw(self) -> None:
        """Finish a wake; the container runs already if `_thaw_early` has thawed it."""
        strategy = self._strategy
        started = self._woken_at or time.monotonic()
        strategy.thaw()
        self._woken_at = self._nap_ends = 0.0
        strategy.awake()
        if self._cause:
            self._workload.metrics.woke(time.monotonic() - started, time.time_ns(), cold=False)
            self._workload.log.info(
                "is awake after %.1f ms: %s", self._workload.metrics.last_restore * 1000, self._cause
            )
            self._monitor.woke()
        self._cause = ""

    async def _restore(self) -> Event:
        strategy = self._strategy
        started = time.monotonic()
        try:
            await strategy.restore()
        except ContainerLost:
            self._workload.metrics.restore_errors += 1
            raise
        self._workload.metrics.woke(time.monotonic() - started, time.time_ns(), cold=True)
        self._workload.log.info("is awake after %.0f ms: %s", self._workload.metrics.last_restore * 1000, self._cause)
        self._cause = ""
        self._monitor.woke()
        return Event.RESTORED

    # A nap

    async def _nap(self) -> Event:
        """Wait for the end of a nap; see `Action.NAP`."""
        strategy = self._strategy
        now = trio.current_time()
        if not self._nap_ends:
            self._nap_ends = now + LONGEST_NAP
            self._workload.metrics.dozes += 1
        try:
            strategy.nap()
            with trio.move_on_at(self._nap_ends):
                event: Event = await race(partial(self._napped, strategy), self._wanted)
                if not self._cause:
                    self._woken_by(event)
                return event
        except OSError as error:
            self._cause = f"cannot see what uses it while it runs for a moment: {error}"
            self._workload.log.warning("stays awake: %s", self._cause)
            return Event.CONNECTION
        self._cause = f"{LONGEST_NAP:g} s were not enough for what it was let run for"
        return Event.CONNECTION

    async def _napped(self, strategy: SleepStrategy) -> Event:
        life = self._workload.life
        had_exec = False
        while True:
            if why := await strategy.napped():
                self._cause = str(why)
                return Event.CONNECTION
            if life.inhibited_by:
                had_exec = True
                await life.changed()
                continue
            if not had_exec:
                return Event.NAP_OVER
            # The answers to probes from before the exec may not hold any more.
            had_exec = False
            try:
                await strategy.pass_probes()
            except NotIdle as unwell:
                self._cause = str(unwell)
                return Event.CONNECTION

    async def _refreeze(self) -> Event:
        life = self._workload.life
        if life.inhibited_by:
            # The event arrived while the other wait was being cancelled.
            return Event.WANTED_SHORTLY
        event = await self._attempt(self._strategy.refreeze)
        if event is Event.NOT_IDLE:
            # It is in use, but nothing inhibits its sleep: treat that like a connection.
            self._cause, self._failure = str(self._failure), None
            return Event.CONNECTION
        return event
