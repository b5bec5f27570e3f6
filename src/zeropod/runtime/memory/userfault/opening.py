"""Gets a userfaultfd for each process to be moved: the one that an earlier move left in it, or a new one.

Owns where it is kept in the process; if a move ends meanwhile, none is left open here.
"""

import os
from collections.abc import Sequence
from typing import Final

from zeropod.kernel import pidfd, userfault
from zeropod.runtime.memory.userfault.holding import Hold
from zeropod.runtime.memory.userfault.holdings import Holdings, Member
from zeropod.runtime.memory.userfault.stopped import Unsuitable, own_thread

KEPT_AT: Final = 900
"""Lowest descriptor number for the userfaultfd in a process: below the usual limit of 1024, above most open files."""


def features(holdings: Holdings) -> int:
    """Return the features to request for each userfaultfd."""
    tracking = userfault.WP_ASYNC | userfault.PAGEFAULT_FLAG_WP if holdings.tracking else 0
    return userfault.EVENTS | tracking


def open_members(holdings: Holdings, hold: Hold, pids: Sequence[int]) -> list[Member]:
    """Return members for these processes, which are frozen again afterwards; `hold.left` has the others with reasons.

    Raises Cut, MemoryFailed.
    """
    made: list[Member] = []
    rest = []
    for pid in pids:
        if (uffd := _kept(holdings, pid)) is not None:
            made.append(Member(pid, uffd))
        else:
            rest.append(pid)
    if rest:
        try:
            own_thread(lambda: _make(holdings, hold, rest, made))
        except BaseException:  # a cut, too: nothing stays open
            for member in made:
                os.close(member.uffd)
            raise
    return made


def _kept(holdings: Holdings, pid: int) -> int | None:
    """Return a descriptor of the userfaultfd that an earlier move left in the process, None without one."""
    number = holdings.kept.get(pid)
    if number is None:
        return None
    try:
        if os.readlink(f"/proc/{pid}/fd/{number}") != "anon_inode:[userfaultfd]":
            return None
        with pidfd.opened(pid) as handle:
            uffd = pidfd.getfd(handle, number)
    except OSError:
        return None
    if userfault.alive(uffd):
        return uffd
    os.close(uffd)
    return None


def _make(holdings: Holdings, hold: Hold, pids: Sequence[int], made: list[Member]) -> None:
    wanted = features(holdings)
    with hold.stopped() as injections:
        for injection in injections:
            hold.freezer.check()
            if injection.pid not in pids:
                continue
            try:
                made.append(Member(injection.pid, injection.open_userfaultfd(wanted, KEPT_AT)))
            except Unsuitable as unsuitable:
                hold.left[injection.pid] = unsuitable.reason
            except OSError as error:
                hold.left[injection.pid] = f"cannot be given a userfaultfd: {error.strerror}"
            if injection.kept_descriptor is not None:
                holdings.kept[injection.pid] = injection.kept_descriptor
    hold.freezer.wait_frozen()
