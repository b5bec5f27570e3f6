"""Our own pager in place of `criu lazy-pages`: the missing pages of a restored container, over userfaultfd.

It does nothing in the background while the container sleeps, brings in what the last wake has touched before the next
one, and loses nothing when it dies: a successor goes on. docs/pager.md compares the two.
"""

from zeropod.runtime.pager.handover import listen
from zeropod.runtime.pager.pager import Pager, PagerLost
from zeropod.runtime.pager.working_set import WORKING_SET_PAGES, WorkingSet

__all__ = ["WORKING_SET_PAGES", "Pager", "PagerLost", "WorkingSet", "listen"]
