"""Reserve disk space for the image or page store that a container is about to write.

Checked against the node's configuration before each dump and each move, and reserved until that is over.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from zeropod.lifecycle.reasons import Reason
from zeropod.lifecycle.strategy import CheckpointFailed, Workload
from zeropod.runtime import budget, node_config


class DiskBudgetExceeded(CheckpointFailed):
    """Its image or page store would exceed a disk limit; nothing was written."""


def key_of(workload: Workload) -> budget.Key:
    """Return the key of the container's reservation."""
    return (workload.runc.namespace, workload.id)


@asynccontextmanager
async def disk_reservation(workload: Workload) -> AsyncIterator[None]:
    """Reserve disk space for the container's image inside the block. Raises DiskBudgetExceeded."""
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
    """Reserve `need` bytes for `what`. Return why that is refused, or an empty text; and errors in the configuration.

    `beside`: files that the container already has on disk stay, in addition.
    """
    config, complaints = node_config.read()
    try:
        return budget.reserve(key, need, config, what, beside=beside), complaints
    except OSError as error:
        return "", [*complaints, f"cannot determine the free disk space, assuming that it is enough: {error}"]
