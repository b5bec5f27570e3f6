"""The backend for containers whose memory stays resident: it is small, or the node has no place for it.

Such a container is only frozen.
"""

from .backend import Backend, Kind


class ResidentBackend(Backend):
    @property
    def kind(self) -> Kind:
        return Kind.RESIDENT
