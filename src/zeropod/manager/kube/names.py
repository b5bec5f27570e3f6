"""Names that users see in Kubernetes' objects and search for."""

PREFIX = "zeropod.ctrox.dev"
STATUS_LABEL = f"status.{PREFIX}"
"""Followed by the container's name: RUNNING or SCALED_DOWN."""
ORIGINALS = {"cpu": f"{PREFIX}/cpu-requests", "memory": f"{PREFIX}/memory-requests"}
"""Annotations of what a pod's containers request while they are awake: JSON, from their names to quantities."""
COMPONENT = f"{PREFIX}/manager"
"""Who reports an event."""
EVENT_PREFIX = "zeropod-status-event-"
