"""What the controller asks of a way to sleep, and what a way to sleep asks of its container.

Owns the two protocols and what can come of an attempt. `Workload` is all that this package knows of a container:
nothing in it is containerd's.
"""

import logging
import signal
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

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


class ContainerLost(Exception):  # noqa: N818 - an outcome
    """The container's processes are gone and cannot be brought back."""

    def __init__(self, why: str, status: ExitStatus) -> None:
        super().__init__(why)
        self.status = status


class _Explained(Exception):  # noqa: N818 - what the next two have in common
    def __init__(self, explanation: Explanation) -> None:
        super().__init__(explanation.text)
        self.explanation = explanation


class NotIdle(_Explained):
    """The container turned out to be in use; it goes on as if nothing had been."""


class CheckpointFailed(_Explained):
    """The container could not be put to sleep; it goes on, and is tried again later."""


def sigkilled(pid: int) -> ExitStatus:
    """Return the exit that is reported for a container which cannot be brought back."""
    return ExitStatus(pid, 128 + signal.SIGKILL, time.time_ns())


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Where the memory of a container in STANDBY is, for `zeropod ps`."""

    kind: Kind
    why: Explanation
    """Why it is this backend, or why memory stays."""
    usage: Usage
    left: int
    """Bytes in memory."""
    moving: bool = False
    """Whether memory is on its way out now."""


class PodContext(Protocol):
    """What the containers of a pod share."""

    def network(
        self, path: str, probers: Collection[str] = ..., *, own: bool = ...
    ) -> AbstractContextManager[PodNetwork]:
        """Open the network namespace at `path` for as long as the block lasts. Raises OSError."""

    def complain(self, complaints: Iterable[str], log: "logging.LoggerAdapter[logging.Logger]") -> None:
        """Log what is wrong with the node, each thing once."""


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
    """The present one, or the last one while it is COLD."""
    slept: Metrics | None
    """The statistics of its lives up to the last time that it was ended."""
    pinned_network: Path | None

    @property
    def pod(self) -> PodContext:
        """Its pod."""

    @property
    def init(self) -> Process:
        """Its init process."""

    def stats_awake(self) -> Metrics:
        """Return its use of resources over all its lives."""

    def configure_criu(self, *, stopped: bool = ..., more: Sequence[str] = ...) -> None:
        """Write CRIU's configuration for its next dump or restore. Raises OSError."""

    def criu_options(self, *, stopped: bool = ..., more: Sequence[str] = ...) -> str:
        """Return the text of that configuration."""

    async def restore(
        self, images: Path, work: Path, options: Sequence[str], timeout: float, started: Started
    ) -> InitProcess:
        """Bring its processes back out of an image. Raises RuncError."""

    async def start_afresh(self) -> None:
        """Start its program again, with the streams that it had. Raises RpcError."""

    async def finish(self, status: ExitStatus) -> None:
        """Report its end."""


class SleepStrategy(Protocol):
    """How a container gets to sleep and back; used by one task, in the order of the methods."""

    why_kept: Explanation | None
    """Why it is not as deep asleep as it was to be; None if there is nothing to say."""

    frozen_at: float
    """When it last began to keep requests waiting to fall asleep; of time.monotonic()."""

    @property
    def obstacles(self) -> Sequence[Obstacle]:
        """What was found to stand against COLD, in this sleep."""

    @property
    def answered(self) -> int:
        """Probes that were answered in its stead, so far."""

    @property
    def image_bytes(self) -> int:
        """What its image takes on disk; 0 if there is none."""

    @property
    def ended(self) -> bool:
        """Whether its processes were ended to sleep, and were not brought back yet."""

    def memory_report(self) -> MemoryReport | None:
        """Return where its memory is; None where nothing was moved. Reads a file or two of its cgroup."""

    def memory_needed(self) -> int:
        """Return how many bytes of memory it takes once all of it is back; 0 where nothing is out."""

    async def ready(self) -> None:
        """Return when the last wake is entirely over, so that the container may sleep again. Raises ContainerLost."""

    async def pass_probes(self) -> None:
        """Return when the container, which runs, has answered well what probes ask of it. Raises NotIdle."""

    async def freeze(self) -> Event:
        """Freeze it: FROZEN; or end it: DUMPED. Raises NotIdle or CheckpointFailed when it runs as before."""

    def move_out(self) -> None:
        """Begin to move its memory out; the container is frozen."""

    def arrivals(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        """What can happen to the sleeping container, each to be waited for."""

    def thaw(self) -> None:
        """Let it run, from wherever it stands; nothing more. Does nothing if it runs."""

    def awake(self) -> None:
        """Let go of what watched it and stood in for it; it runs."""

    def nap(self) -> None:
        """Let it run for a moment."""

    async def napped(self) -> Explanation | None:
        """Return when what it was let run for from outside of containerd is over.

        Returns why it has to stay awake, None if it may be frozen again.
        """

    async def refreeze(self) -> Event:
        """Freeze it again: FROZEN, or PROBE where another probe has come. Raises NotIdle, CheckpointFailed."""

    async def dump(self) -> Event:
        """End it: DUMPED; or KEPT, or what has come meanwhile. Raises CheckpointFailed when it runs, ContainerLost."""

    async def restore(self) -> None:
        """Bring its processes back. Raises ContainerLost when that is not possible in any way."""

    async def make_whole(self) -> None:
        """Return when all of its memory is in its processes, which run. Raises ContainerLost."""

    async def watch_memory(self) -> NoReturn:
        """Raise ContainerLost when pages that are out of memory cannot be had any more."""

    async def release(self) -> None:
        """Let go of everything, and let it run if it is frozen. Raises ContainerLost."""


StrategyFactory = Callable[[Workload, PodNetwork, TaskStarter], SleepStrategy]
"""Makes the strategy for one container; what it leaves running in the nursery ends with the container."""
