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
    servers_timeout: float = 60.0
    """Seconds for a source to be out of its memory once its target is ready."""
    bandwidth: int = 0
    """Bytes a second that all transfers of this node may send; 0 is any number."""
