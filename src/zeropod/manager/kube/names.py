"""Names in Kubernetes' objects that users see and search for."""

PREFIX = "zeropod.ctrox.dev"
STATUS_LABEL = f"status.{PREFIX}"
"""Prefix of the label of a container, followed by its name; values RUNNING or SCALED_DOWN."""
ORIGINALS = {"cpu": f"{PREFIX}/cpu-requests", "memory": f"{PREFIX}/memory-requests"}
"""Annotations with the requests that a pod's containers have while awake: JSON, quantities by container name."""
COMPONENT = f"{PREFIX}/manager"
"""The reporter of events."""
EVENT_PREFIX = "zeropod-status-event-"
