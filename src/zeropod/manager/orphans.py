"""Images whose containers do not exist any more: after a reboot, or when a shim and its clean-up both failed."""

import logging
from pathlib import Path

import trio

from zeropod.runtime import budget

log = logging.getLogger(__name__)

PODS = Path("/run/zeropod/pods")
"""Where shims list their containers, a directory a pod (`zeropod.shim.places`); empty after a reboot, as it should."""


def existing() -> frozenset[str]:
    """The ids of all containers that a shim, alive or dead, has not yet removed."""
    return frozenset(entry.name for entry in PODS.glob("*/*"))


async def collect() -> None:
    """Removes them, and says so."""
    try:
        removed = await trio.to_thread.run_sync(budget.collect_orphans, existing)
    except OSError as error:
        log.warning("images that were left behind could not be looked for: %s", error)
        return
    for name, size in removed:
        log.warning("removed the image of %s, %.1f MB: there is no such container", name, size / 1e6)
