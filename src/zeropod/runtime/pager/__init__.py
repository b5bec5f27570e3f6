"""zeropod's pager in place of `criu lazy-pages`: serves the missing pages of a container by userfaultfd.

It prefetches the pages that the last wakes touched, does no other work while the container sleeps, and loses nothing
when it dies: a successor continues. docs/pager.md compares it with CRIU's.
"""

from zeropod.runtime.pager.handover import listen
from zeropod.runtime.pager.pager import Pager, PagerLost
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, WorkingSet

__all__ = ["WORKING_SET_PAGES", "Pager", "PagerLost", "WorkingSet", "listen"]
