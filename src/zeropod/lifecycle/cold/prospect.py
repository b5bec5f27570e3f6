"""Whether a container in STANDBY may go COLD, and when that is tried again.

Owns the length of STANDBY, the obstacles of the last examination, the state that is set again after a restore because
CRIU loses it, and the time before which another dump is pointless.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

import trio

from zeropod.activator.network import PodNetwork
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.strategy import CheckpointFailed, NotIdle, Workload
from zeropod.runtime.image import reapplied, unsupported
from zeropod.runtime.image.obstacle import Obstacle

AFTER_FAILURE = 600.0
"""Seconds until COLD is tried again after a failed dump."""

AFTER_BUSY = 5.0
"""Seconds until COLD is tried again after a dump that was given up because the container was in use."""

EXAMINE_AGAIN = 60.0
"""Seconds until a container that may not go COLD is examined again."""


class ColdProspect:
    def __init__(self, workload: Workload, network: PodNetwork) -> None:
        self._workload = workload
        self._network = network
        self.obstacles: Sequence[Obstacle] = ()
        """What stands against COLD, in this sleep."""
        self.noted = reapplied.Noted()
        """What CRIU loses, and is set again."""
        self._not_before = -math.inf
        self.why_postponed: Explanation | None = None

    async def until_over(self, moved: Callable[[], Awaitable[None]], since: float) -> Explanation | None:
        """Return when STANDBY, which began at `since` (trio's time), is over; the result is why, if it ends early.

        `moved` returns when no memory is being moved out any more.
        """
        settings, init_process = self._workload.settings, self._workload.init_process
        if not settings.standby:
            return None
        await moved()
        assert init_process is not None
        resident = init_process.cgroup.resident_bytes()
        if resident > settings.standby_max_resident:
            return Reason.TOO_RESIDENT.because(_mebibytes(resident), _mebibytes(settings.standby_max_resident))
        await trio.sleep_until(since + (settings.standby_duration or math.inf))
        return None

    async def examine(self, init_process: InitProcess, ours: Collection[tuple[int, int]]) -> Explanation | None:
        """Return why the frozen container must not go COLD, or None. `ours` are descriptors that the memory backend has
        opened in its processes."""
        texts = await trio.to_thread.run_sync(self._examine, init_process, ours, abandon_on_cancel=True)
        return Reason.WOULD_LOSE.because("; ".join(texts)) if texts else None

    def _examine(self, init_process: InitProcess, ours: Collection[tuple[int, int]]) -> list[str]:
        """Return the obstacles in words. Blocks for some tens of milliseconds."""
        facts = replace(unsupported.Facts.of(self._workload.spec.content), ours=frozenset(ours))
        pids = init_process.pids()
        self.obstacles = unsupported.find(pids, facts)
        try:
            self.noted = reapplied.note(pids)
        except OSError as error:
            self.obstacles = [*self.obstacles, unsupported.Kind.UNREADABLE.found(str(error))]
        return [
            *filter(None, [self._network.cannot_hand_over]),
            *(f"{each.text} ({each.remedy})" if each.remedy else each.text for each in self.obstacles),
        ]

    @property
    def is_postponed(self) -> bool:
        return trio.current_time() < self._not_before

    async def until_due(self) -> None:
        """Return when a dump may be tried again."""
        await trio.sleep_until(max(self._not_before, trio.current_time()))

    def postpone(self, seconds: float, why: NotIdle | CheckpointFailed) -> Explanation:
        """Return why the container stays in STANDBY, and allow no dump for some seconds."""
        self._not_before = trio.current_time() + seconds
        self.why_postponed = Reason.NO_COLD.because(why)
        return self.why_postponed

    @property
    def loses_something(self) -> bool:
        """Whether something is to be set again before restored processes run."""
        return bool(self.noted.options or self.noted.groups)

    def reapply(self, init_process: InitProcess) -> None:
        """Set again what the restore has lost."""
        for complaint in reapplied.reapply(init_process.pids(), self.noted):
            self._workload.log.warning("cannot be set again after its restore: %s", complaint)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"
