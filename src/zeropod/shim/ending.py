"""Ends a container's processes on purpose, frozen or not, so that the container can live on without them."""

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from zeropod.runtime.errors import RuncError
from zeropod.shim.incarnation import Incarnation
from zeropod.shim.way import Lost, killed

if TYPE_CHECKING:
    from zeropod.shim.container import Container

DEATH = 10.0
"""Seconds for killed processes to be gone; they take milliseconds, with gigabytes of memory some more."""


async def end(container: "Container", incarnation: Incarnation) -> None:
    """Nobody is told of the exit. Raises Lost when they do not die."""
    incarnation.exit_expected = True
    for pid in incarnation.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # What a v1 freezer holds does not die; with SIGKILL pending it does not run either.
    incarnation.cgroup.thaw()
    with trio.move_on_after(DEATH) as patience:
        await incarnation.exited.wait()
    if patience.cancelled_caught:
        raise Lost(f"its processes do not die within {DEATH:g} s of SIGKILL", killed(incarnation.pid))
    with suppress(RuncError):
        await container.runc.delete(container.id, force=True)
