"""Images whose containers do not exist any more: after a reboot, or when a shim and its clean-up both failed."""

import logging

import trio

from zeropod import paths
from zeropod.runtime import budget

log = logging.getLogger(__name__)


def existing() -> frozenset[budget.Key]:
    """All containers that a shim, alive or dead, has not yet removed: none after a reboot, as it should be.

    A shim of an older version lists its containers one directory higher, and does not say in which namespace they are.
    """
    listed = frozenset((entry.parts[-3], entry.name) for entry in paths.PODS.glob("*/*/*"))
    return listed | {("", entry.name) for entry in paths.PODS.glob("*/*") if not entry.is_dir()}


async def collect() -> None:
    """Removes them, and says so."""
    try:
        removed = await trio.to_thread.run_sync(budget.collect_orphans, existing)
    except OSError as error:
        log.warning("images that were left behind could not be looked for: %s", error)
        return
    for key, size in removed:
        name = "/".join(filter(None, key))
        log.warning("removed the image of %s, %.1f MB: there is no such container", name, size / 1e6)
