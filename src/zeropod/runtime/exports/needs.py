"""What this node has for a restore: a container can come back only where its processor's features are."""

import os
import platform
import re
from functools import lru_cache
from pathlib import Path

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports.manifest import Needs

_FLAGS = re.compile(r"^(?:flags|Features)\s*:\s*(.*)$", re.MULTILINE)


@lru_cache(maxsize=1)
def of_this_node() -> Needs:
    """Read the node, once. CRIU's version is in its images, and it checks that itself."""
    try:
        found = _FLAGS.search(Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    features = tuple(sorted(set(found[1].split()))) if found else ()
    return Needs(platform.machine(), os.uname().release, "", features, PAGE)
