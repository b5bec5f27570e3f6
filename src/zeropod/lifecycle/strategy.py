"""The protocols between the controller, a strategy of sleeping, and the container.

`SleepStrategy` is what the controller needs of a strategy, `Workload` all that this package knows of a container:
nothing in it is specific to containerd. The outcomes of an attempt are exceptions or events.
"""

import logging
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from zeropod.activator.network import PodNetwork
from zeropod.concurrency import TaskStarter
from zeropod.kernel.pidfd import ExitStatus
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.machine import Event, Life
from zeropod.lifecycle.metrics import ContainerMetrics
from zeropod.lifecycle.reasons import Explanation
from zeropod.lifecycle.settings import Settings
from zeropod.runtime.cgroups import Metrics
from zeropod.runtime.command import Started
from zeropod.runtime.image.obstacle import Obstacle
from zeropod.runtime.images import ImageStore
from zeropod.runtime.memory.backend import Kind, Usage
from zeropod.runtime.runc import Runc
from zeropod.runtime.spec import Spec

if TYPE_CHECKING:
    from zeropod.lifecycle.arrival import Coming


class ContainerLost(Exception):  # noqa: N818 - an outcome
    """The container's processes are gone and cannot be brought back."""

    def __init__(self, why: str, status: ExitStatus) -> None:
        super().__init__(why)
        self.status = status


class Departed(ContainerLost):
    """The container goes on elsewhere: it has left, and never comes back here."""

    def __init__(self, where: str, pid: int) -> None:
        super().__init__(where, ExitStatus(pid, 0, time.time_ns()))


class _Explained(Exception):  # noqa: N818 - what the next two have in common
    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation.text)
        self.explanation = explanation


class NotIdle(_Explained):
    """The container is in use after all; it runs on as before."""


class CheckpointFailed(_Explained):
    """The container could not be put to sleep; it runs on, and sleep is tried again later."""


def sigkilled(pid: int) -> ExitStatus:
    """Return the exit status that is reported for a container that cannot be brought back."""
    return ExitStatus(pid, 128 + signal.SIGKILL, time.time_ns())


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The state of a STANDBY container's memory, for `zeropod ps`."""

    kind: Kind
    why: Explanation
    """Why it has this backend, or why its memory stays in place."""
    usage: Usage
    left: int
    """Bytes in memory."""
    moving: bool = False
    """Whether memory is being moved out now."""


class PodContext(Protocol):
    """State shared by the containers of a pod."""

    def network(
        self, path: str, probers: Collection[str] = ..., *, own: bool = ...
    ) -> AbstractContextManager[PodNetwork]:
        """Open the network namespace at `path` for as long as the block lasts. Raises OSError."""

    def complain(self, complaints: Iterable[str], log: "logging.LoggerAdapter[logging.Logger]") -> None:
        """Log problems of the node, each of them once."""


class Process(Protocol):
    """The init process as containerd knows it."""

    pid: int


class Workload(Protocol):
    """One container that sleeps and wakes."""

    id: str
    settings: Settings
    spec: Spec
    runc: Runc
    store: ImageStore
    life: Life
    metrics: ContainerMetrics
    log: "logging.LoggerAdapter[logging.Logger]"
    init_process: InitProcess | None
    """The current one; in COLD, the last one."""
    slept: Metrics | None
    """The accumulated statistics of its earlier init processes, up to the last sleep that ended one."""
    pinned_network: Path | None
    portable: bool
    """Whether what it leaves on disk may come back in another container: nothing of it is kept in this process."""

    @property
    def keeps_connections(self) -> bool:
        """Whether established connections go through its image."""

    @property
    def pod(self) -> PodContext:
        """Its pod."""

    @property
    def init(self) -> Process:
        """Its init process."""

    def stats_awake(self) -> Metrics:
        """Return its resource usage over all its init processes."""

    def configure_criu(self, *, stopped: bool = ..., more: Sequence[str] = ...) -> None:
        """Write CRIU's configuration for its next dump or restore. Raises OSError."""

    def criu_options(self, *, stopped: bool = ..., more: Sequence[str] = ...) -> str:
        """Return the text of CRIU's configuration."""

    async def restore(
        self, images: Path, work: Path, options: Sequence[str], timeout: float, started: Started
    ) -> InitProcess:
        """Restore its processes from an image. Raises RuncError."""

    async def start_afresh(self) -> None:
        """Start its program anew, with the same standard streams. Raises RpcError."""

    async def finish(self, status: ExitStatus) -> None:
        """Report its exit."""


class SleepStrategy(Protocol):
    """How a container falls asleep and wakes. The methods are called by one task."""

    why_kept: Explanation | None
    """Why it is not in COLD although it should be; None without a reason to report."""

    frozen_at: float
    """When requests began to wait for the last fall asleep, by time.monotonic()."""

    @property
    def obstacles(self) -> Sequence[Obstacle]:
        """What stands against COLD, as found during this sleep."""

    @property
    def answered(self) -> int:
        """The number of probes answered in its place so far."""

    @property
    def image_bytes(self) -> int:
        """Bytes of its image on disk; 0 if there is none."""

    @property
    def ended(self) -> bool:
        """Whether its processes were ended for sleep, and are not restored yet."""

    def memory_report(self) -> MemoryReport | None:
        """Return where its memory is; None if none was moved. Reads one or two files of its cgroup."""

    def memory_needed(self) -> int:
        """Return the bytes of memory that it needs once all of it is back; 0 if none is out."""

    async def ready(self) -> None:
        """Return when the last wake is complete, so that the container may sleep again. Raises ContainerLost."""

    async def pass_probes(self) -> None:
        """Return when the running container has passed all its known probes. Raises NotIdle."""

    async def freeze(self) -> Event:
        """Freeze it and return FROZEN, or end it and return DUMPED. If it runs on: raises NotIdle or
        CheckpointFailed."""

    def move_out(self) -> None:
        """Start to move its memory out; the container is frozen."""

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        """Return functions that each wait for an event of the sleeping container."""

    def thaw(self) -> None:
        """Let it run at once, and do nothing else. Does nothing if it runs."""

    def awake(self) -> None:
        """Release the watch and the interception of probes; the container runs."""

    def nap(self) -> None:
        """Let it run for a probe or an exec."""

    async def napped(self) -> Explanation | None:
        """Return when the nap's probes are answered.

        The result is why it has to stay awake, or None if it may be frozen again.
        """

    async def refreeze(self) -> Event:
        """Freeze it again and return FROZEN; or PROBE if another probe has arrived. Raises NotIdle,
        CheckpointFailed."""

    async def dump(self) -> Event:
        """Dump it and return DUMPED; or KEPT, or an event that has arrived meanwhile. Raises CheckpointFailed if it
        runs, or ContainerLost."""

    async def bring_to_rest(self) -> Event:
        """Freeze what runs, when little of its memory is left to move: FROZEN. Raises CheckpointFailed."""

    async def export(self) -> None:
        """Make an export of it, which is ended; or say to what has asked for that why not."""

    async def adopt(self, coming: "Coming") -> None:
        """Bring back processes out of an export, and leave them stopped. Raises AdoptionFailed; nothing is left."""

    async def restore(self) -> None:
        """Restore its processes. Raises ContainerLost if every attempt fails."""

    async def make_whole(self) -> None:
        """Return when all memory is back in its running processes. Raises ContainerLost."""

    async def watch_memory(self) -> NoReturn:
        """Raise ContainerLost when pages that were moved out are lost."""

    async def release(self) -> None:
        """Release everything, and thaw it if it is frozen. Raises ContainerLost."""


StrategyFactory = Callable[[Workload, PodNetwork, TaskStarter], SleepStrategy]
"""Make the strategy for one container; tasks that it starts in the nursery end with the container."""
