"""The kinds of service of a pager: for memory that CRIU has restored, or that was moved out of a live process."""

from dataclasses import dataclass

from zeropod.runtime.images import Fingerprint
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES


@dataclass(frozen=True, slots=True)
class Service:
    """The differences between serving memory that CRIU has restored and memory moved out of a live process."""

    ahead: int = 1
    """The most pages that one fault brings in, including those around it."""
    protected: bool = False
    """Whether pages are brought in write-protected, so that later writes to them can be detected."""
    completes: bool = True
    """Whether the pager ends when every page is in; otherwise it ends when told to."""
    noted: float = float("inf")
    """Seconds after the first fault until which faults are noted for the working set, unless the drain has begun."""
    fill: int = WORKING_SET_PAGES
    """The most pages of the working set that are brought in while the container sleeps."""
    fingerprints: tuple[Fingerprint, ...] = ()
    """Of the files, if they are to be checked for changes before a page is read."""
