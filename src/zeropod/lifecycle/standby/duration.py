"""How long a container stays in STANDBY, where it is to go on to COLD: for its time, or not with too much memory."""

import math

import trio

from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.standby.memory import StandbyMemory
from zeropod.lifecycle.strategy import Workload

MEBIBYTE = 1 << 20


async def until_over(workload: Workload, memory: StandbyMemory, since: float) -> Explanation | None:
    """Return when STANDBY, which began at `since` (trio's time), has lasted long enough; why, if it ends early."""
    settings = workload.settings
    if not settings.standby:
        return None
    await memory.moved()
    assert workload.init_process is not None
    resident = workload.init_process.cgroup.resident_bytes()
    if resident > settings.standby_max_resident:
        return Reason.TOO_RESIDENT.because(mebibytes(resident), mebibytes(settings.standby_max_resident))
    await trio.sleep_until(since + (settings.standby_duration or math.inf))
    return None


def mebibytes(size: int) -> str:
    """Return a size in words."""
    return f"{size / MEBIBYTE:.0f} MiB"
