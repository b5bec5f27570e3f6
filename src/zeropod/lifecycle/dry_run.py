"""Sleep that is only counted: what `dry-run` does in the place of a checkpoint.

The container goes on running, so nothing tells at once that somebody has come. But activity leaves its time behind, and
a sleep takes a whole scale-down duration without any: a look once in that time misses none.
"""

import time
from datetime import UTC, datetime
from functools import partial

import trio

from zeropod.concurrency import race
from zeropod.lifecycle.idle.monitor import IdleWatch
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.strategy import Workload


async def pretend(container: Workload, watch: IdleWatch) -> None:
    """From when the container would fall asleep to when it would be awake again."""
    life, tally = container.life, container.tally
    life.wake_wanted = trio.Event()
    life.end_attempt()
    life.pretended = State.STANDBY if container.settings.standby else State.COLD
    tally.dry_run_sleeps += 1
    life.why = f"dry run: it would sleep since {datetime.fromtimestamp(time.time(), UTC):%H:%M:%S} UTC"
    container.log.info("would sleep (%s), were it not for dry-run", life.pretended.name)
    try:
        await race(life.wake_wanted.wait, partial(watch.used, time.monotonic_ns()))
    finally:
        life.pretended = None
    tally.dry_run_wakes += 1
    if life.wake_wanted.is_set():
        watch.awake_since = time.monotonic_ns()
    life.why = "dry run: it would have been woken"
    container.log.info("would be woken, were it not for dry-run")
