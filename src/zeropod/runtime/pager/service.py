"""What a pager does for whom: memory that CRIU has restored, or that was moved out of a living process."""

from dataclasses import dataclass

from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES


@dataclass(frozen=True, slots=True)
class Service:
    """What differs between memory that CRIU has restored and memory that was moved out of a living process."""

    ahead: int = 1
    """Pages that a fault brings in at most, those around it."""
    protected: bool = False
    """Pages are brought in write-protected, so that it can be told later which were written to since."""
    completes: bool = True
    """The pager ends when every page is in; otherwise when it is told so."""
    noted: float = float("inf")
    """Seconds after the first fault until which faults are noted for the working set, unless the drain has begun."""
    fill: int = WORKING_SET_PAGES
    """The most pages that `fill` brings in."""
    files: tuple[tuple[int, Fingerprint], ...] = ()
    """Descriptors of files that must be what they were when they were written, looked at before a page is taken."""
