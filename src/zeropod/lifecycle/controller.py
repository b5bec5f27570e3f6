"""The sleep of one container, from its start to its end, whatever fails below.

Owns the bulkhead: whatever goes wrong in the sleep machinery, in any task of it, the container is thawed, stays awake,
says why, and is tried again later with a strategy made anew. What goes right is `actions`.
"""

from functools import partial

import trio

from zeropod.activator.network import PodNetwork
from zeropod.concurrency import GuardedNursery, leaves, race
from zeropod.lifecycle.actions import Actions, BackOff
from zeropod.lifecycle.idle.monitor import IdleMonitor
from zeropod.lifecycle.machine import ASLEEP, Event, State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import ContainerLost, SleepStrategy, StrategyFactory, Workload, sigkilled

RESCUE = 120.0
"""Seconds for bringing a container back after an unexpected failure, and for letting go of what its sleep holds; what
brings memory back has a bound of its own."""


class Controller:
    """The sleep of one container, from its start to its end."""

    def __init__(self, workload: Workload, network_path: str, factory: StrategyFactory) -> None:
        self._workload = workload
        self._network_path = network_path
        self._factory = factory
        self._scope = trio.CancelScope()
        self.strategy: SleepStrategy | None = None
        """How it sleeps, while that is managed."""
        self.network: PodNetwork | None = None
        """Of its pod, while it runs."""
        self._back_off = BackOff(workload.life)
        self.metrics = workload.metrics

    @property
    def next_attempt_ns(self) -> int:
        """When it is tried again after a failure, at the earliest, in nanoseconds since 1970; 0 without one."""
        return self._back_off.next_attempt_ns

    @property
    def probes_answered(self) -> int:
        """While it slept, so far."""
        return self.strategy.answered if self.strategy else 0

    def stop(self) -> None:
        """The container has ended. Returns at once; the rest is let go of in the controller's own task."""
        self._scope.cancel()

    async def make_whole(self) -> None:
        """Return when all memory of the container, which runs and is inhibited, is in its processes."""
        strategy, init_process = self.strategy, self._workload.init_process
        if strategy and init_process:
            try:
                await race(strategy.make_whole, init_process.ended_by_itself)
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
                    life, pause = self._workload.life, self._back_off.after_unexpected_failure()
                    life.explanation = life.failure = Reason.UNMANAGED.because(_words(failure))
                    self._workload.log.error(
                        "stays awake, its sleep is set up anew in %g s: %s", pause, _words(failure), exc_info=error
                    )
                    await self._back_off.pause_after_failure(pause)

    async def _report(self, lost: ContainerLost) -> None:
        self._workload.life.failure = Reason.LOST.because(lost)
        self._workload.log.error("is lost, reporting its exit: %s", lost)
        await self._workload.finish(lost.status)

    async def _manage(self) -> None:
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
                    await self._use(network, GuardedNursery(nursery))
                    nursery.cancel_scope.cancel()
            finally:
                self.network = None

    async def _use(self, network: PodNetwork, tasks: GuardedNursery) -> None:
        strategy = self.strategy = self._factory(self._workload, network, tasks)
        actions = Actions(self._workload, strategy, IdleMonitor(self._workload, network), self._back_off)
        try:
            await race(actions.run, partial(_fail, tasks), strategy.watch_memory)
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
                self.metrics.probes_answered += strategy.answered
                self.strategy = None

    async def _rescue(self, strategy: SleepStrategy) -> None:
        """After an unexpected failure: have the container run. Raises ContainerLost."""
        workload = self._workload
        life = workload.life
        try:
            strategy.thaw()
        except Exception as error:  # noqa: BLE001 - its release tries it once more, and the state has to be told
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
        """Raises ContainerLost, whatever it is that fails: its processes are gone, and nothing else can be tried."""
        failure = f"it took longer than {RESCUE:g} s"
        with trio.CancelScope(shield=True, deadline=trio.current_time() + RESCUE) as patience:
            try:
                await strategy.restore()
            except ContainerLost:
                self.metrics.restore_errors += 1
                raise
            except Exception as error:  # noqa: BLE001 - it becomes the container's end, which says it
                failure = _words(error)
            else:
                return
        if not patience.cancelled_caught:
            self._workload.log.error("cannot be restored: %s", failure)
        self.metrics.restore_errors += 1
        raise ContainerLost(f"cannot be restored: {failure}", sigkilled(self._workload.init.pid))


async def _fail(tasks: GuardedNursery) -> None:
    raise await tasks.failed()


def _meant(error: Exception) -> Exception:
    """Return the exception that a group is about: that the container is lost, else the first one."""
    found = [leaf for leaf in leaves(error) if isinstance(leaf, Exception)]
    lost = [leaf for leaf in found if isinstance(leaf, ContainerLost)]
    return (lost or found or [error])[0]


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, OSError) else str(error)
