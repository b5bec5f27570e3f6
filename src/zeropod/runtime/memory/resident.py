"""The memory of a sleeping container stays where it is: it is small, or the node has no place for it.

Owns nothing: freezing is all that such a container's sleep is.
"""

from .backend import Backend, Kind


class ResidentBackend(Backend):
    """The backend that moves nothing."""

    @property
    def kind(self) -> Kind:
        return Kind.RESIDENT
