"""When one container sleeps and wakes: performs what the state machine says, and contains whatever fails.

Owns the loop from event to actions to the next event, the back-off after a failed attempt, and the bulkhead: whatever
goes wrong in the sleep machinery, in any task of it, the container is thawed, stays awake, says why, and is tried again
later with a strategy made anew. `IdleWatch` knows when, a `SleepStrategy` knows how. It ends with its container.
"""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from zeropod.activator.network import PodNetwork
from zeropod.concurrency import GuardedNursery, leaves, race
from zeropod.lifecycle.dry_run import pretend
from zeropod.lifecycle.idle.monitor import IdleWatch
from zeropod.lifecycle.machine import ASLEEP, Action, Event, State, transition
from zeropod.lifecycle.reservation import DiskBudgetExceeded
from zeropod.lifecycle.strategy import (
    CheckpointFailed,
    ContainerLost,
    NotIdle,
    SleepStrategy,
    StrategyFactory,
    Workload,
    sigkilled,
)

RECHECK = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between attempts after failures; the last one for all further ones."""

REBUILD = (1.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds after an unexpected failure of the sleep machinery until it is set up anew; the last one for further ones."""

LONGEST_NAP = 10.0
"""Seconds beyond which what a container in STANDBY was let run for is no probe: then it is awake."""

BUSY = 1.0
"""Seconds until the next look at a container that was busy after all."""

RESCUE = 120.0
"""Seconds for bringing a container back after an unexpected failure, and for letting go of what its sleep holds; what
brings memory back has a bound of its own."""

CAUSES = {
    Event.CONNECTION: "a connection came",
    Event.DATA: "data came",
    Event.PROBE: "a health probe came that only it can answer",
    Event.WANTED: "it was asked for",
    Event.WANTED_SHORTLY: "it was asked for",
    Event.FAILED: "its sleep could not be managed any longer",
}
"""What has woken it, in words for the log."""


class Controller:
    """The sleep of one container, from its start to its end."""

    def __init__(self, workload: Workload, network_path: str, factory: StrategyFactory) -> None:
        self._workload = workload
        self._network_path = network_path
        self._factory = factory
        self._scope = trio.CancelScope()
        self._strategy: SleepStrategy | None = None
        self._watch: IdleWatch | None = None
        self.network: PodNetwork | None = None
        """Of its pod, while it runs."""
        self._failures = 0
        """Attempts that failed in a row."""
        self._rebuilds = 0
        """Unexpected failures since it last slept."""
        self._failure: Exception | None = None
        """Why the last attempt came to nothing."""
        self.next_attempt_ns = 0
        """When it is tried again after a failure, at the earliest, in nanoseconds since 1970; 0 without one."""
        self._nap_ends = 0.0
        self._woken_at = 0.0
        self._cause = ""
        """What has woken it, in words, until that is logged."""
        self.tally = workload.tally
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
            Action.RESTORE: self._restore,
        }

    @property
    def strategy(self) -> SleepStrategy | None:
        """How it sleeps, while that is managed."""
        return self._strategy

    @property
    def probes_answered(self) -> int:
        """While it slept, so far."""
        return self._strategy.answered if self._strategy else 0

    @property
    def image_bytes(self) -> int:
        """What its image takes on disk; 0 if there is none."""
        return self._strategy.image_bytes if self._strategy else 0

    @property
    def memory_needed(self) -> int:
        """Bytes of memory that it takes once all of it is back; 0 where nothing is out."""
        return self._strategy.memory_needed() if self._strategy else 0

    def stop(self) -> None:
        """The container has ended. Returns at once; the rest is let go of in the controller's own task."""
        self._scope.cancel()

    async def make_whole(self) -> None:
        """Return when all memory of the container, which runs and is inhibited, is in its processes."""
        strategy, incarnation = self._strategy, self._workload.incarnation
        if strategy and incarnation:
            try:
                await race(strategy.make_whole, incarnation.ended_by_itself)
            except ContainerLost as lost:
                await self._report(lost)

    async def run(self) -> None:
        """Sleep and wake until the container ends. Never raises for a failure of the sleep machinery."""
        with self._scope:
            while True:
                try:
                    await self._manage()
                except Exception as error:  # the bulkhead: whatever it is, the container runs and the shim goes on
                    failure = _meant(error)
                    if isinstance(failure, ContainerLost):
                        await self._report(failure)
                        return
                    pause = REBUILD[min(self._rebuilds, len(REBUILD) - 1)]
                    self._rebuilds += 1
                    self._say(f"its sleep cannot be managed: {_words(failure)}")
                    self._workload.log.error(
                        "stays awake, its sleep is set up anew in %g s: %s", pause, _words(failure), exc_info=error
                    )
                    await self._pause_until_attempt(pause)

    async def _report(self, lost: ContainerLost) -> None:
        self._workload.life.message = str(lost)
        self._workload.log.error("is lost, reporting its exit: %s", lost)
        await self._workload.finish(lost.status)

    def _say(self, why: str) -> None:
        life = self._workload.life
        life.why = life.message = why

    async def _manage(self) -> None:
        """Sleep and wake until something unexpected happens, which is raised. Then the container runs."""
        workload = self._workload
        settings = workload.settings
        own = settings.localhost_traffic
        with workload.host.network(
            self._network_path,
            () if settings.disable_probe_detection else settings.probe_processes,
            own=bool(workload.pinned_network) if own is None else own,
        ) as network:
            self.network = network
            try:
                for limit in network.limits:
                    workload.log.warning("%s", limit)
                async with trio.open_nursery() as nursery:
                    self._watch = IdleWatch(workload, network)
                    await self._use(network, GuardedNursery(nursery))
                    nursery.cancel_scope.cancel()
            finally:
                self.network = None

    async def _use(self, network: PodNetwork, tasks: GuardedNursery) -> None:
        strategy = self._strategy = self._factory(self._workload, network, tasks)
        try:
            await race(self._live, partial(_fail, tasks), strategy.watch_memory)
        except Exception as error:
            contained = _meant(error)
            if not isinstance(contained, ContainerLost) and not self._scope.cancel_called:
                await self._rescue(strategy)
            raise contained from error
        finally:
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + RESCUE) as patience:
                    await strategy.release()
                if patience.cancelled_caught:
                    self._workload.log.error(
                        "its sleep was not taken down within %g s; what is left of it goes with the container", RESCUE
                    )
            finally:
                self.tally.probes_answered += strategy.answered
                self._strategy = None

    async def _live(self) -> None:
        event: Event | None = await self._await_idle()
        while True:
            assert event is not None, "the last action of a row returns an event"
            actions = self._workload.life.happen(event)
            self._note(event)
            event = None
            for action in actions:
                event = await self._perform[action]()

    async def _rescue(self, strategy: SleepStrategy) -> None:
        """After an unexpected failure: have the container run. Raises ContainerLost."""
        workload = self._workload
        life = workload.life
        self._nap_ends = self._woken_at = 0.0
        self._cause, self._failure = "", None
        try:
            strategy.thaw()
        except Exception as error:  # noqa: BLE001 - its release tries it once more, and the state has to be told
            workload.log.error("cannot be thawed: %s", _words(error))
        if life.state is State.CHECKPOINTING and strategy.ended:
            life.happen(Event.DUMPED)
        if life.state is State.COLD:
            life.happen(Event.FAILED)
        if life.state is State.RESTORING:
            incarnation = workload.incarnation
            if strategy.ended or incarnation is None or incarnation.is_dead():
                await self._restore_after_failure(strategy)
            life.happen(Event.RESTORED)
        elif life.state in ASLEEP:
            life.happen(Event.FAILED)

    async def _restore_after_failure(self, strategy: SleepStrategy) -> None:
        """Raises ContainerLost, whatever it is that fails: its processes are gone, and nothing else can be tried."""
        failure = f"it took longer than {RESCUE:g} s"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RESCUE) as patience:
            try:
                await strategy.restore()
            except ContainerLost:
                self.tally.restore_errors += 1
                raise
            except Exception as error:  # noqa: BLE001 - it becomes the container's end, which says it
                failure = _words(error)
            else:
                return
        if not patience.cancelled_caught:
            self._workload.log.error("cannot be restored: %s", failure)
        self.tally.restore_errors += 1
        raise ContainerLost(f"cannot be restored: {failure}", sigkilled(self._workload.init.pid))

    def _note(self, event: Event) -> None:
        """Log and count what has just changed the state."""
        workload, strategy = self._workload, self._strategy
        life, tally = workload.life, self.tally
        assert strategy is not None
        match event:
            case Event.FROZEN if self._nap_ends:
                self._nap_ends, self._cause = 0.0, ""
            case Event.FROZEN | Event.DUMPED:
                self._failures = self._rebuilds = 0
                tally.standby_sleeps += event is Event.FROZEN
                tally.cold_sleeps += event is Event.DUMPED
                tally.slept(time.monotonic() - strategy.frozen_at, time.time_ns())
                life.end_attempt()
                workload.log.info("sleeps (%s), after %.0f ms", life.state.name, tally.last_checkpoint * 1000)

    # Awake

    async def _await_idle(self) -> Event:
        """Return when the container may sleep, and it is to be tried."""
        workload, strategy, watch = self._workload, self._strategy, self._watch
        assert strategy is not None
        assert watch is not None
        life = workload.life
        while True:
            if life.state is State.RUNNING:
                await strategy.ready()
                life.tell()
            await race(watch.idle, life.sleep_wanted.wait)
            if workload.settings.dry_run:
                await pretend(workload, watch)
                continue
            try:
                if life.state is State.RUNNING and not life.inhibited_by:
                    await strategy.pass_probes()
                if life.state is not State.RUNNING or life.inhibited_by:
                    raise NotIdle(life.inhibited_by or life.state.name.lower())
            except NotIdle as busy:
                life.why = str(busy)
                await self._pause(BUSY)
                continue
            return Event.QUIET

    async def _pause(self, seconds: float) -> None:
        """End the attempt, and return when the next one may be made or is asked for."""
        life = self._workload.life
        life.end_attempt()
        with trio.move_on_after(seconds):
            await life.sleep_wanted.wait()

    async def _pause_until_attempt(self, seconds: float) -> None:
        """Return then, too; until then it is said when that is."""
        self.next_attempt_ns = time.time_ns() + round(seconds * 1e9)
        try:
            await self._pause(seconds)
        finally:
            self.next_attempt_ns = 0

    async def _back_off(self) -> None:
        failure, life = self._failure, self._workload.life
        self._failure = None
        if isinstance(failure, NotIdle):
            life.why = str(failure)
            await self._pause(BUSY)
            return
        refused = isinstance(failure, DiskBudgetExceeded)
        if refused:
            self.tally.refused_sleeps += 1
        else:
            self.tally.checkpoint_errors += 1
        self._failures += 1
        pause = RECHECK[min(self._failures, len(RECHECK)) - 1]
        self._say(str(failure) if failure else "its sleep failed")
        level = logging.WARNING if refused else logging.ERROR
        self._workload.log.log(level, "stays awake, next attempt in %g s at the earliest: %s", pause, life.why)
        await self._pause_until_attempt(pause)

    # Down

    async def _attempt(self, step: Callable[[], Awaitable[Event]]) -> Event:
        """Return what comes of a step; what stands against it is kept for the back-off."""
        try:
            return await step()
        except (NotIdle, CheckpointFailed) as failure:
            self._failure = failure
            return Event.NOT_IDLE if isinstance(failure, NotIdle) else Event.FAILED

    async def _freeze(self) -> Event:
        assert self._strategy is not None
        return await self._attempt(self._strategy.freeze)

    async def _move_out(self) -> None:
        assert self._strategy is not None
        self._strategy.move_out()

    async def _dump(self) -> Event:
        assert self._strategy is not None
        event = await self._attempt(self._strategy.dump)
        self._woken_by(event)
        return event

    # Asleep

    async def _await_arrival(self) -> Event:
        strategy, life = self._strategy, self._workload.life
        assert strategy is not None
        if strategy.why_kept:
            life.why = strategy.why_kept
        try:
            event: Event = await race(
                self._wanted, self._wanted_shortly, *strategy.arrivals(), on_first=partial(self._hurry, strategy)
            )
        except OSError as error:
            self._failure = CheckpointFailed(f"cannot watch what comes for it: {error}")
            self._workload.log.warning("cannot watch what comes for it, waking it: %s", error)
            event = Event.FAILED
        self._woken_by(event)
        return event

    def _hurry(self, strategy: SleepStrategy, event: Event) -> None:
        # A microsecond counts here: nothing else is done before the thaw.
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
        await self._workload.life.doze_wanted.wait()
        return Event.WANTED_SHORTLY

    async def _thaw(self) -> None:
        """The container runs already, if an arrival has thawed it."""
        strategy, watch = self._strategy, self._watch
        assert strategy is not None
        assert watch is not None
        started = self._woken_at or time.monotonic()
        strategy.thaw()
        self._woken_at = self._nap_ends = 0.0
        strategy.awake()
        if self._cause:
            self.tally.woke(time.monotonic() - started, time.time_ns(), cold=False)
            self._workload.log.info("is awake after %.1f ms: %s", self.tally.last_restore * 1000, self._cause)
            watch.woke()
        self._cause = ""

    async def _restore(self) -> Event:
        strategy, watch = self._strategy, self._watch
        assert strategy is not None
        assert watch is not None
        started = time.monotonic()
        try:
            await strategy.restore()
        except ContainerLost:
            self.tally.restore_errors += 1
            raise
        self.tally.woke(time.monotonic() - started, time.time_ns(), cold=True)
        self._workload.log.info("is awake after %.0f ms: %s", self.tally.last_restore * 1000, self._cause)
        self._cause = ""
        watch.woke()
        return Event.RESTORED

    # A nap

    async def _nap(self) -> Event:
        """From the thaw to the next freeze, or to where it has to stay awake."""
        strategy = self._strategy
        assert strategy is not None
        now = trio.current_time()
        if not self._nap_ends:
            self._nap_ends = now + LONGEST_NAP
            self.tally.dozes += 1
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
            if words := await strategy.napped():
                self._cause = words
                return Event.CONNECTION
            if life.inhibited_by:
                had_exec = True
                await life.changed()
                continue
            if not had_exec:
                return Event.NAP_OVER
            # What the application said to probes before the exec may not hold any more.
            had_exec = False
            try:
                await strategy.pass_probes()
            except NotIdle as unwell:
                self._cause = str(unwell)
                return Event.CONNECTION

    async def _refreeze(self) -> Event:
        assert self._strategy is not None
        life = self._workload.life
        if life.inhibited_by:
            # Something came in the moment that it took to end the other wait.
            return Event.WANTED_SHORTLY
        event = await self._attempt(self._strategy.refreeze)
        if event is Event.NOT_IDLE:
            # It is not idle, and nothing stands against its sleep: it is awake, as by a connection.
            self._cause, self._failure = str(self._failure), None
            return Event.CONNECTION
        return event


async def _fail(tasks: GuardedNursery) -> None:
    raise await tasks.failed()


def _meant(error: Exception) -> Exception:
    """Return the exception that a group is about: that the container is lost, else the first one."""
    found = [leaf for leaf in leaves(error) if isinstance(leaf, Exception)]
    lost = [leaf for leaf in found if isinstance(leaf, ContainerLost)]
    return (lost or found or [error])[0]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
