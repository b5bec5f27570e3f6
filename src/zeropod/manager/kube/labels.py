"""Labels by which users can select pods with containers that are awake or asleep.

A container between both states keeps its label. One that has ended loses it.
"""

from zeropod.manager.kube.names import STATUS_LABEL
from zeropod.manager.kube.pods import Pod, Statuses
from zeropod.rpc.messages.status_pb2 import COLD, DOZING, RUNNING, STANDBY, STOPPED, State

RUNNING_LABEL, ASLEEP_LABEL = "RUNNING", "SCALED_DOWN"
OF_STATE: dict[State, str | None] = {
    RUNNING: RUNNING_LABEL,
    STANDBY: ASLEEP_LABEL,
    # During a probe or an exec.
    DOZING: ASLEEP_LABEL,
    COLD: ASLEEP_LABEL,
    STOPPED: None,
}


def wanted(pod: Pod, statuses: Statuses) -> dict[str, str | None]:
    """Return the labels to change, None for those to remove."""
    changes: dict[str, str | None] = {}
    for container in pod.containers:
        had = pod.labels.get(container.name)
        status = statuses.get(container.name)
        has = OF_STATE.get(status.state, had) if status else had if container.runs else None
        if has != had:
            changes[f"{STATUS_LABEL}/{container.name}"] = has
    return changes
