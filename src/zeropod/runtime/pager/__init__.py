"""zeropod's pager in place of `criu lazy-pages`: serves the missing pages of a container by userfaultfd.

It does nothing in the background while the container sleeps, brings in the pages that the last wake touched before the
next one, and loses nothing when it dies: a successor continues. docs/pager.md compares the two.
"""

from zeropod.runtime.pager.handover import listen
from zeropod.runtime.pager.pager import Pager, PagerLost
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, WorkingSet

__all__ = ["WORKING_SET_PAGES", "Pager", "PagerLost", "WorkingSet", "listen"]
