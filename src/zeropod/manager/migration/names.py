"""Names of the custom resource Migration and of what goes with it, which users know."""

from typing import Final

from zeropod.manager.kube.names import PREFIX

GROUP_VERSION = "runtime.zeropod.ctrox.dev/v1"
KIND = "Migration"
PLURAL = "migrations"

OFFLINE = f"{PREFIX}/migrate"
"""Annotation of a pod: the containers that may move while they sleep, with commas between."""
LIVE = f"{PREFIX}/live-migrate"
"""Likewise those that may move while they are awake."""

REPLACES = f"{PREFIX}/replaces"
"""Annotation of a pod that a person's wish has made: the uid of the pod that it is to take over from."""

PENDING: Final = "Pending"
RUNNING: Final = "Running"
"""Its memory is on the way: it runs on neither node."""
COMPLETED: Final = "Completed"
FAILED: Final = "Failed"
UNCLAIMED: Final = "Unclaimed"
"""No replacement came in time; none can claim it any more."""
FINAL = (COMPLETED, FAILED, UNCLAIMED)

PORT = 8090
"""Where managers take one another's connections."""
LONGEST_REASON = 1024
"""Characters of a reason, as the schema allows."""
