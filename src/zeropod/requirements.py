"""The oldest kernel, CRIU and containerd that zeropod supports, for the doctor, the installer and the README.

Linux 6.1 is the first with /dev/userfaultfd, by which a pager serves memory without capabilities of the container. It
also has all other required features: tcp_migrate_req and cgroup.kill (5.14), pidfd_getfd, process_madvise, nf_tables
tables owned by a socket, memory.reclaim. So no code checks for these. Useful newer features are detected where they are
used: PAGEMAP_SCAN and asynchronous write protection (6.7) save the page store comparisons; an sk_lookup program that
may query a task's name need not read it from kernel memory.
"""

import re

OLDEST_KERNEL = (6, 1)
OLDEST_CRIU = (4, 2)
"""Older ones fail on new kernels."""
OLDEST_CONTAINERD = (1, 7)
"""The oldest version that the test suites run with."""


def numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; fewer if it has fewer."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def too_old(text: str, oldest: tuple[int, ...]) -> str:
    """Return what is wrong with a version, in words; empty if it is new enough."""
    if numbers(text) >= oldest:
        return ""
    return f"{text}, and {'.'.join(map(str, oldest))} is the oldest that will do"
