"""What a manager with --migration is told: by its flags, and by its own pod."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    node: str
    """What Kubernetes calls this node."""
    host: str = ""
    """The address at which other managers reach this one: its pod's."""
    port: int = 8090
    claim_timeout: float = 10.0
    """Seconds for a replacement to be there."""
    ready_timeout: float = 300.0
    """Seconds for it to be ready; and for one that comes only when the pod is gone, to come."""
    servers_timeout: float = 10.0
    """Seconds after which a target that is ready, and waits, looks whether its source's node is still there."""
    bandwidth: int = 0
    """Bytes a second that all transfers of this node may send; 0 is any number."""
