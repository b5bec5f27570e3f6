"""End a container's processes on purpose, frozen or not; the container lives on without them.

This includes the processes of a failed restore, which are known only by their cgroup: runc has moved CRIU itself there.
"""

import os
import signal
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import NoReturn

import trio

from zeropod.kernel import mount
from zeropod.lifecycle.init_process import InitProcess
from zeropod.lifecycle.strategy import ContainerLost, Workload, sigkilled
from zeropod.runtime.cgroups import Cgroup
from zeropod.runtime.errors import RuncError

Silence = Callable[[Collection[int]], None]
"""Makes the connections of these processes close without a packet to their peers."""

AGAIN = 0.005
"""Seconds between checks whether killed processes are gone. One that was forking may have left another."""

DEATH = 10.0
"""Seconds for killed processes to be gone. They take milliseconds, or longer with gigabytes of memory."""


async def terminate(workload: Workload, init_process: InitProcess) -> None:
    """Kill the processes; their exit is not reported. Raises ContainerLost when they do not die."""
    init_process.exit_expected = True
    init_process.cgroup.kill()
    with trio.move_on_after(DEATH) as patience:
        await init_process.exited.wait()
    if patience.cancelled_caught:
        raise ContainerLost(f"its processes do not die within {DEATH:g} s of SIGKILL", sigkilled(init_process.pid))
    with suppress(RuncError):
        await workload.runc.delete(workload.id, force=True)


async def kill_until_cancelled(workload: Workload, silence: Silence) -> NoReturn:
    """Kill all processes that appear in the cgroup, until cancelled."""
    while True:
        if workload.init_process:
            _silence_and_kill(workload.init_process.cgroup, silence)
        await trio.sleep(AGAIN)


async def cleanup_failed_restore(workload: Workload, silence: Silence) -> None:
    """Kill the processes of a failed restore, and delete runc's state of it; log what remains."""
    if workload.init_process:
        cgroup = workload.init_process.cgroup
        with trio.move_on_after(DEATH) as patience:
            while _silence_and_kill(cgroup, silence):  # noqa: ASYNC110 - the kernel has no event for it
                await trio.sleep(AGAIN)
        if patience.cancelled_caught:
            workload.log.error("failed restore: processes %s survive SIGKILL", cgroup.pids())
    try:
        # A killed runc leaves the container's root mounted there, and `delete` would remove its files.
        mount.unmount_below(workload.runc.state_of(workload.id))
        await workload.runc.delete(workload.id, force=True)
    except (OSError, RuncError) as error:
        workload.log.error("failed restore: runc still knows the container: %s", error)


def _silence_and_kill(cgroup: Cgroup, silence: Silence) -> bool:
    pids = cgroup.pids()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)  # or CRIU's code in it would leave repair mode, as the last step of a restore
    if pids:
        silence(pids)
    return cgroup.kill()
