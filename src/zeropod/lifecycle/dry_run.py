"""Count sleeps without sleeping: what `dry-run` does instead of a freeze.

The container keeps running, so no event tells that it would have been woken. But activity leaves a timestamp, and a
sleep needs a whole scale-down duration without any: one check per duration misses no wake.
"""

import time
from datetime import UTC, datetime
from functools import partial

import trio

from zeropod.concurrency import race
from zeropod.lifecycle.idle.monitor import IdleMonitor
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import Workload


async def pretend(workload: Workload, watch: IdleMonitor) -> None:
    """Count a sleep, wait until the container would be woken, and count the wake."""
    life, metrics = workload.life, workload.metrics
    life.wake_wanted = trio.Event()
    life.end_attempt()
    life.pretended = State.STANDBY if workload.settings.standby else State.COLD
    metrics.dry_run_sleeps += 1
    life.explanation = Reason.DRY_RUN.because(f"{datetime.fromtimestamp(time.time(), UTC):%H:%M:%S}")
    workload.log.info("would sleep (%s), were it not for dry-run", life.pretended.name)
    try:
        await race(life.wake_wanted.wait, partial(watch.used, time.monotonic_ns()))
    finally:
        life.pretended = None
    metrics.dry_run_wakes += 1
    if life.wake_wanted.is_set():
        watch.awake_since = time.monotonic_ns()
    life.explanation = Reason.DRY_RUN_WOKEN.because()
    workload.log.info("would be woken, were it not for dry-run")
