"""Removes cgroups that tests have made."""

import os
from contextlib import suppress
from pathlib import Path

from zeropod.runtime.cgroups import Cgroup


def remove(cgroup: Cgroup) -> bool:
    """Thaw it and remove it, with those below it; return whether all is gone. What has processes stays (EBUSY)."""
    cgroup.thaw()
    for path in cgroup.paths.values():
        for group, _, _ in os.walk(path, topdown=False):
            with suppress(OSError):
                os.rmdir(group)
    return not any(Path(path).exists() for path in cgroup.paths.values())
