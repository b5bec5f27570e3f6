"""The sleep of one container, from its start to its end, with all failures contained.

Whatever goes wrong in any task of the sleep machinery, the container is thawed and stays awake, the reason is reported,
and sleep is tried again later with a new strategy object. The normal course is in `actions`.
"""

from functools import partial

import trio

from zeropod.activator.network import PodNetwork
from zeropod.concurrency import GuardedNursery, leaves, race
from zeropod.lifecycle.actions import Actions, BackOff
from zeropod.lifecycle.arrival import AdoptionFailed, Arrival
from zeropod.lifecycle.idle.monitor import IdleMonitor
from zeropod.lifecycle.machine import ASLEEP, Event, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import ContainerLost, Departed, SleepStrategy, StrategyFactory, Workload, sigkilled

RESCUE = 120.0
"""Seconds for bringing a container back after an unexpected failure, and for releasing what its sleep holds. Bringing
memory back has a limit of its own."""


class Controller:
    """The sleep of one container, from its start to its end."""

    def __init__(self, workload: Workload, network_path: str, factory: StrategyFactory) -> None:
        self._workload = workload
        self._network_path = network_path
        self._factory = factory
        self._scope = trio.CancelScope()
        self.strategy: SleepStrategy | None = None
        """The current strategy; None while sleep is not set up."""
        self.network: PodNetwork | None = None
        """The network of its pod; None while sleep is not set up."""
        self._back_off = BackOff(workload.life)
        self.metrics = workload.metrics

    @property
    def next_attempt_ns(self) -> int:
        """Earliest time of the next attempt after a failure, in nanoseconds since 1970; 0 without a failure."""
        return self._back_off.next_attempt_ns

    @property
    def probes_answered(self) -> int:
        """The number of probes that the current strategy has answered."""
        return self.strategy.answered if self.strategy else 0

    def stop(self) -> None:
        """Stop managing the container, which has ended. Returns at once; the controller's own task releases the
        rest."""
        self._scope.cancel()

    async def make_whole(self) -> None:
        """Return when all memory is back in the processes of the running container, whose sleep is inhibited."""
        strategy, init_process = self.strategy, self._workload.init_process
        if strategy and init_process:
            try:
                await race(strategy.make_whole, init_process.ended_by_itself)
            except ContainerLost as lost:
                await self._report(lost)

    async def run(self, arrival: Arrival | None = None) -> None:
        """Sleep and wake until the container ends. Never raises for a failure of the sleep machinery.

        With an `arrival` it comes back from there first. If it does not, this ends, for the container to be created.
        """
        with self._scope:
            while True:
                try:
                    await self._manage(arrival)
                except Exception as error:  # the bulkhead: whatever it is, the container runs and the shim goes on
                    failure = _decisive(error)
                    if arrival and not arrival.is_here:
                        self._scope = trio.CancelScope()  # of its own life, which begins anew
                        arrival.fail(str(failure) if isinstance(failure, AdoptionFailed) else _words(failure))
                        return
                    arrival = None
                    if isinstance(failure, ContainerLost):
                        await self._report(failure)
                        return
                    life, pause = self._workload.life, self._back_off.after_unexpected_failure()
                    life.explanation = life.failure = Reason.UNMANAGED.because(_words(failure))
                    self._workload.log.error(
                        "stays awake, its sleep is set up anew in %g s: %s", pause, _words(failure), exc_info=error
                    )
                    await self._back_off.pause_after_failure(pause)

    async def _report(self, lost: ContainerLost) -> None:
        if isinstance(lost, Departed):
            self._workload.log.info("has left: %s", lost)
        else:
            self._workload.life.failure = Reason.LOST.because(lost)
            self._workload.log.error("is lost, reporting its exit: %s", lost)
        await self._workload.finish(lost.status)

    async def _manage(self, arrival: Arrival | None) -> None:
        """Sleep and wake until something unexpected happens, which is raised. Then the container runs."""
        workload = self._workload
        settings = workload.settings
        own = settings.localhost_traffic
        with workload.pod.network(
            self._network_path,
            () if settings.disable_probe_detection else settings.probe_processes,
            own=bool(workload.pinned_network) if own is None else own,
        ) as network:
            self.network = network
            try:
                for limit in network.limits:
                    workload.log.warning("%s", limit)
                async with trio.open_nursery() as nursery:
                    await self._use(network, GuardedNursery(nursery), arrival)
                    nursery.cancel_scope.cancel()
            finally:
                self.network = None

    async def _use(self, network: PodNetwork, tasks: GuardedNursery, arrival: Arrival | None) -> None:
        strategy = self.strategy = self._factory(self._workload, network, tasks)
        actions = Actions(self._workload, strategy, IdleMonitor(self._workload, network), self._back_off)
        try:
            run = partial(self._from_arrival, strategy, actions, arrival) if arrival else actions.run
            await race(run, partial(_fail, tasks), strategy.watch_memory)
        except Exception as error:
            contained = _decisive(error)
            if not isinstance(contained, ContainerLost) and not self._scope.cancel_called:
                await self._rescue(strategy)
            raise contained from error
        finally:
            try:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + RESCUE) as patience:
                    await strategy.release()
                if patience.cancelled_caught:
                    self._workload.log.error(
                        "its sleep was not released within %g s; the rest is released with the container", RESCUE
                    )
            finally:
                self.metrics.probes_answered += strategy.answered
                self.strategy = None

    async def _from_arrival(self, strategy: SleepStrategy, actions: Actions, arrival: Arrival) -> None:
        """Have its processes come back before its start, and go on from there."""
        await strategy.adopt(arrival.coming)
        arrival.has_come()
        await arrival.started()
        await actions.run(arrival.row)

    async def _rescue(self, strategy: SleepStrategy) -> None:
        """Make the container run after an unexpected failure. Raises ContainerLost."""
        workload = self._workload
        life = workload.life
        try:
            strategy.thaw()
        except Exception as error:  # noqa: BLE001 - `release` tries again, and the state must be updated
            workload.log.error("cannot be thawed: %s", _words(error))
        if life.state is State.CHECKPOINTING and strategy.ended:
            life.happen(Event.DUMPED)
        if life.state is State.COLD:
            life.happen(Event.FAILED)
        if life.state is State.RESTORING:
            init_process = workload.init_process
            if strategy.ended or init_process is None or init_process.is_dead():
                await self._restore_after_failure(strategy)
            life.happen(Event.RESTORED)
        elif life.state in ASLEEP:
            life.happen(Event.FAILED)

    async def _restore_after_failure(self, strategy: SleepStrategy) -> None:
        """Restore the processes, which are gone. Raises ContainerLost for any failure: nothing else can be tried."""
        failure = f"it took longer than {RESCUE:g} s"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RESCUE) as patience:
            try:
                await strategy.restore()
            except ContainerLost:
                self.metrics.restore_errors += 1
                raise
            except Exception as error:  # noqa: BLE001 - the container ends with this failure as its reason
                failure = _words(error)
            else:
                return
        if not patience.cancelled_caught:
            self._workload.log.error("cannot be restored: %s", failure)
        self.metrics.restore_errors += 1
        raise ContainerLost(f"cannot be restored: {failure}", sigkilled(self._workload.init.pid))


async def _fail(tasks: GuardedNursery) -> None:
    raise await tasks.failed()


def _decisive(error: Exception) -> Exception:
    """Return the decisive exception of a group: ContainerLost if there is one, else the first."""
    found = [leaf for leaf in leaves(error) if isinstance(leaf, Exception)]
    lost = [leaf for leaf in found if isinstance(leaf, ContainerLost)]
    return (lost or found or [error])[0]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
