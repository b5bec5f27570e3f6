"""How a container gets to sleep and back, as the sleeper sees it: what each way does, and what can come of it."""

import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from zeropod.activator.network import PodNetwork
from zeropod.kernel.pidfd import ExitStatus
from zeropod.shim.lifecycle import Event, State

if TYPE_CHECKING:
    from zeropod.shim.container import Container


class Lost(Exception):  # noqa: N818 - an outcome
    """The container's processes are gone and cannot be brought back."""

    def __init__(self, why: str, status: ExitStatus) -> None:
        super().__init__(why)
        self.status = status


class StillBusy(Exception):  # noqa: N818 - the container's good right, not an error
    """The container turned out to be in use; it goes on as if nothing had been."""


class SleepFailed(Exception):  # noqa: N818 - named for what happened
    """The container could not be put to sleep; it goes on, and is tried again later."""


def killed(pid: int) -> ExitStatus:
    """The exit that is reported for a container which cannot be brought back."""
    return ExitStatus(pid, 128 + signal.SIGKILL, time.time_ns())


class WayToSleep(Protocol):
    """How a container gets to sleep and back; used by one task, in the order of the methods."""

    why_cold: str
    """Why it sleeps without standby, in words; empty if there is nothing to say."""

    why_awake: str
    """Why it could not lie down again the last time, in words; empty if it could, or there is nothing to say."""

    @property
    def still_since(self) -> float:
        """When it last began to keep requests waiting to fall asleep; of time.monotonic(), 0 if it does not say."""

    @property
    def answered(self) -> int:
        """Probes that were answered in its stead, so far."""

    @property
    def image_bytes(self) -> int:
        """What its image takes on disk; 0 if there is none."""

    async def ready(self) -> None:
        """Returns when the last wake is entirely over, so that the container may sleep again."""

    def may_begin(self) -> bool:
        """Whether it may fall asleep now, and not after others of this node. Raises OSError."""

    async def turn(self) -> None:
        """Returns when `may_begin` may have another answer. Raises OSError."""

    async def pass_probes(self) -> None:
        """Returns when the container, which runs, has answered well what probes ask of it. Raises StillBusy."""

    async def sleep(self) -> State:
        """To STANDBY or COLD. Raises StillBusy or SleepFailed when it runs as before, Lost when it does not."""

    def events(self) -> Sequence[Callable[[], Awaitable[Event]]]:
        """What can happen to the sleeping container, each to be waited for."""

    async def cool(self) -> State:
        """From STANDBY to COLD, or not if something has come meanwhile. Raises SleepFailed when it runs, Lost."""

    def doze(self) -> None:
        """From STANDBY: lets it run, without more than that."""

    async def dozed(self) -> None:
        """Returns when what it was let run for by others than containerd is over, and nothing of it is left."""

    async def lie_down(self) -> State:
        """Back to STANDBY. Or where it has to go instead: DOZING; RUNNING, by wake; COLD, by cool."""

    def hurry(self) -> None:
        """Before `wake`, which follows at once: lets it run already, if that is all that it takes."""

    async def wake(self) -> None:
        """Brings the processes back. Raises Lost when that is not possible in any way."""

    def abandon(self) -> None:
        """Lets go of everything: the container has ended."""


Way = Callable[["Container", PodNetwork, trio.Nursery], WayToSleep]
"""Makes the way for one container; what it leaves running in the nursery ends with the container."""
