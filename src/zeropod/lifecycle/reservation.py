"""Whether the disk has room for what a container is about to write: its image, or its page store.

Asked by the configuration of the node before each dump and each move, and reserved until that is over.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import CheckpointFailed, Workload
from zeropod.runtime import budget, node_config


class DiskBudgetExceeded(CheckpointFailed):
    """What it would write takes too much of the disk: nothing was tried."""


def key_of(workload: Workload) -> budget.Key:
    """Return the name under which the container reserves."""
    return (workload.runc.namespace, workload.id)


@asynccontextmanager
async def disk_reservation(workload: Workload) -> AsyncIterator[None]:
    """Inside, room for the image of the container is reserved. Raises DiskBudgetExceeded."""
    init_process = workload.init_process
    assert init_process is not None
    need = init_process.cgroup.resident_bytes()
    words, complaints = await trio.to_thread.run_sync(reserve, key_of(workload), need, "its image")
    workload.pod.complain(complaints, workload.log)
    if words:
        raise DiskBudgetExceeded(Reason.DISK.because(words))
    try:
        yield
    finally:
        budget.release(key_of(workload))


def reserve(key: budget.Key, need: int, what: str, *, beside: bool = False) -> tuple[str, list[str]]:
    """Return why `need` bytes of `what` must not be written, or nothing; and what is wrong with the configuration.

    `beside`: what the container has on disk already stays.
    """
    config, complaints = node_config.read()
    try:
        return budget.reserve(key, need, config, what, beside=beside), complaints
    except OSError as error:
        return "", [*complaints, f"the room on disk cannot be looked at, it is taken to be enough: {error}"]
