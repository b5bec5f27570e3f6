"""When one container sleeps and wakes: the loop around a way to do it.

The loop owns the back-off after a failed attempt and the states; `IdleWatch` knows when, `Checkpointed` or `Restarted`
know how. It ends with its container: `stop` cancels it, and whatever the way of sleeping holds is let go of on the way
out.
"""

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from zeropod.activator.first import first_of
from zeropod.activator.network import PodNetwork
from zeropod.shim.dry_run import pretend
from zeropod.shim.idle_watch import IdleWatch
from zeropod.shim.lifecycle import ASLEEP, Event, Reaction, State, react
from zeropod.shim.room import NoRoom
from zeropod.shim.way import Lost, SleepFailed, StillBusy, Way, WayToSleep, killed

if TYPE_CHECKING:
    from zeropod.shim.container import Container

log = logging.getLogger(__name__)

RECHECK = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Seconds between attempts after failures; the last one for all further ones."""

LONGEST_DOZE = 10.0
"""Seconds beyond which what a container in standby was let run for is no probe: then it is awake."""

CAUSES = {
    Event.CONNECTION: "somebody has connected",
    Event.DATA: "data came on a connection",
    Event.PROBE: "a health probe came that only it can answer",
    Event.WANTED: "it was asked for",
    Event.WANTED_SHORTLY: "it was asked for",
}
"""What has woken it, in words for the log."""

BUSY = 1.0
"""Seconds until the next look at a container that was busy after all."""


class Sleeper:
    """The sleep of one container, from its start to its end."""

    def __init__(self, container: "Container", network_path: str, way: Way) -> None:
        self._container = container
        self._network_path = network_path
        self._way = way
        self._scope = trio.CancelScope()
        self._working: WayToSleep | None = None
        self.network: PodNetwork | None = None
        """Of its pod, while it runs."""
        self.gave_up = False
        """It cannot be put to sleep, and will not be."""
        self.settled = trio.Event()
        """Set while nothing of a wake is going on any more, such as filling the memory."""
        self._failures = 0
        """Attempts that failed in a row."""
        self.next_attempt_ns = 0
        """When it is tried again after a failure, at the earliest, in nanoseconds since 1970; 0 without one."""
        self.tally = container.tally

    @property
    def probes_answered(self) -> int:
        """While it slept, so far."""
        return self._working.answered if self._working else 0

    @property
    def image_bytes(self) -> int:
        """What its image takes on disk; 0 if there is none."""
        return self._working.image_bytes if self._working else 0

    def stop(self) -> None:
        """The container has ended; returns at once, the rest is let go of in the sleeper's own task."""
        self._scope.cancel()

    async def run(self) -> None:
        """Sleeps and wakes until the container ends; a container that cannot be woken ends here."""
        container, lost = self._container, None
        with self._scope:
            try:
                settings = container.settings
                own = settings.localhost_traffic
                with container.host.network(
                    self._network_path,
                    () if settings.disable_probe_detection else settings.probe_processes,
                    own=bool(container.pinned_network) if own is None else own,
                ) as network:
                    self.network = network
                    for limit in network.limits:
                        container.log.warning("%s", limit)
                    lost = await self._live(network)
            except OSError as error:
                self._give_up(error)
            finally:
                self.network = None
        if lost:
            container.life.message = str(lost)
            container.log.error("is lost, reporting its exit: %s", lost)
            await container.finish(lost.status)

    async def _live(self, network: PodNetwork) -> Lost | None:
        lost = None
        async with trio.open_nursery() as nursery:
            way, watch = self._way(self._container, network, nursery), IdleWatch(self._container, network)
            self._working = way
            try:
                while True:
                    await self._cycle(watch, way)
            except Lost as error:
                lost = error
            except OSError as error:
                if self._container.life.state in ASLEEP:
                    lost = Lost(f"cannot be woken: {error}", killed(self._container.init.pid))
                else:
                    self._give_up(error)
            finally:
                way.abandon()
                nursery.cancel_scope.cancel()
        return lost

    def _give_up(self, error: OSError) -> None:
        life, self.gave_up = self._container.life, True
        life.why = life.message = f"its sleep cannot be managed: {error}"
        self._container.log.error("never sleeps from now on: %s", life.why)

    async def _cycle(self, watch: IdleWatch, way: WayToSleep) -> None:
        """From awake to awake once, or to a failed attempt. Raises Lost."""
        life = self._container.life
        await way.ready()
        self.settled.set()
        life.tell()
        try:
            await first_of(watch.idle, self._sleep_wanted)
            if self._container.settings.dry_run:
                await pretend(self._container, watch)
                return
            await self._until_turn(watch, way)
            await self._sleep(way)
        except StillBusy as busy:
            life.why = str(busy)
            await self._pause(BUSY)
        except SleepFailed as error:
            self._count(error)
            self._failures += 1
            pause = RECHECK[min(self._failures, len(RECHECK)) - 1]
            self.next_attempt_ns = time.time_ns() + round(pause * 1e9)
            life.why = life.message = str(error)
            level = logging.WARNING if isinstance(error, NoRoom) else logging.ERROR
            self._container.log.log(level, "stays awake, next attempt in %g s at the earliest: %s", pause, life.why)
            await self._pause(pause)
            self.next_attempt_ns = 0
        else:
            self._failures = 0
            await self._asleep(way)
            watch.woke()

    async def _until_turn(self, watch: IdleWatch, way: WayToSleep) -> None:
        """Until it is its turn to fall asleep. It runs while it waits for that, so nobody waits with it.

        Raises StillBusy; never after it has got its turn, which would then not end.
        """
        life = self._container.life
        await way.pass_probes()
        if life.state is not State.RUNNING or life.held_by:
            raise StillBusy(life.held_by or life.state.name.lower())
        while not way.may_begin():
            life.why = "others of this node are falling asleep: it waits for its turn"
            await way.turn()
            await first_of(watch.idle, self._sleep_wanted)

    def _count(self, error: SleepFailed) -> None:
        if isinstance(error, NoRoom):
            self.tally.refused_sleeps += 1
        else:
            self.tally.checkpoint_errors += 1

    async def _pause(self, seconds: float) -> None:
        """Until the next attempt may be made, or somebody wants one."""
        self._container.life.sleep_wanted = trio.Event()
        with trio.move_on_after(seconds):
            await self._container.life.sleep_wanted.wait()

    async def _sleep_wanted(self) -> None:
        life = self._container.life
        await life.sleep_wanted.wait()
        while life.state is not State.RUNNING or life.held_by:
            await life.changed()

    async def _asleep(self, way: WayToSleep) -> None:
        """Until it runs again. Raises Lost."""
        life = self._container.life
        while life.state is not State.RUNNING:
            try:
                event = await first_of(
                    self._wanted, self._wanted_shortly, *way.events(), then=partial(self._hurry, way)
                )
            except OSError as error:
                self._container.log.warning("is woken, since it cannot be seen what comes for it: %s", error)
                await self._wake(way, "it cannot be seen what comes for it")
                continue
            match react(life.state, event):
                case Reaction.WAKE:
                    await self._wake(way, CAUSES[event])
                case Reaction.DOZE:
                    await self._doze(way)
                case Reaction.COOL:
                    await self._cool(way)

    def _hurry(self, way: WayToSleep, event: Event) -> None:
        if react(self._container.life.state, event) is Reaction.WAKE:
            way.hurry()

    async def _wanted(self) -> Event:
        await self._container.life.wake_wanted.wait()
        return Event.WANTED

    async def _wanted_shortly(self) -> Event:
        await self._container.life.doze_wanted.wait()
        return Event.WANTED_SHORTLY

    async def _doze(self, way: WayToSleep) -> None:
        """From standby and back, unless more comes of it. Raises Lost."""
        life, state, unseen = self._container.life, State.DOZING, ""
        started = trio.current_time()
        self.tally.dozes += 1
        try:
            with trio.move_on_at(started + LONGEST_DOZE):
                while state is State.DOZING:
                    life.enter(State.DOZING)
                    way.doze()
                    if await first_of(partial(self._over, way), self._wanted) is Event.WANTED:
                        break
                    if life.held_by:
                        continue  # somebody came in the moment that it took to end the other wait
                    life.enter(State.CHECKPOINTING)
                    state = await way.lie_down()
        except OSError as error:
            state, unseen = State.DOZING, f"it cannot be seen who is with it while it runs for a moment: {error}"
            self._container.log.warning("is woken: %s", unseen)
        self._container.log.debug("has dozed for %.0f ms", (trio.current_time() - started) * 1000)
        match state:
            case State.STANDBY:
                life.enter(State.STANDBY)
            case State.COLD:
                await self._cool(way)
            case _:
                await self._wake(way, unseen or way.why_awake or "to run for a moment was not enough")

    async def _over(self, way: WayToSleep) -> Event:
        life = self._container.life
        await way.dozed()
        while life.held_by:
            await life.changed()
            await way.dozed()
        return Event.QUIET

    async def _sleep(self, way: WayToSleep) -> None:
        life = self._container.life
        life.enter(State.CHECKPOINTING)
        started = time.monotonic()
        try:
            state = await way.sleep()
        except (StillBusy, SleepFailed):
            life.enter(State.RUNNING)
            raise
        self.tally.slept(time.monotonic() - max(started, way.still_since), time.time_ns())
        self.tally.standby_sleeps += state is State.STANDBY
        life.sleep_wanted = trio.Event()
        self._enter(state, way)
        self._container.log.info("sleeps (%s), after %.0f ms", state.name, self.tally.last_checkpoint * 1000)

    async def _cool(self, way: WayToSleep) -> None:
        life = self._container.life
        life.enter(State.CHECKPOINTING)
        try:
            self._enter(await way.cool(), way)
        except SleepFailed as error:
            life.message = str(error)
            life.enter(State.RUNNING)
            self._container.log.error("is awake again: %s", error)

    def _enter(self, state: State, way: WayToSleep) -> None:
        life = self._container.life
        if state is State.COLD:
            self.tally.cold_sleeps += 1
        life.enter(state)
        if state is State.COLD:
            life.why = way.why_cold

    async def _wake(self, way: WayToSleep, cause: str) -> None:
        life = self._container.life
        if life.held_by:
            cause += f" ({life.held_by})"
        started, cold = time.monotonic(), life.state is State.COLD
        life.enter(State.RESTORING)
        self.settled = trio.Event()
        try:
            await way.wake()
        except Lost:
            self.tally.restore_errors += 1
            raise
        self.tally.woke(time.monotonic() - started, time.time_ns(), cold=cold)
        life.enter(State.RUNNING)
        self._container.log.info("is awake after %.0f ms: %s", self.tally.last_restore * 1000, cause)
