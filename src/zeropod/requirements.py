"""The oldest kernel, CRIU and containerd that zeropod runs with: the doctor, the installer and the README say the same.

Linux 6.1 is the first with /dev/userfaultfd, by which a pager serves memory without rights of the container's, and it
has all else that is needed at any time: tcp_migrate_req and cgroup.kill (5.14), pidfd_getfd, process_madvise, nf_tables
tables that end with their owner, memory.reclaim. So nothing looks for these, or does without them. What is newer, and
worth having, is asked of the kernel where it is used: PAGEMAP_SCAN and asynchronous write protection (6.7) spare the
page store comparisons; a sk_lookup program that may ask for a task's name need not read it.
"""

import re

OLDEST_KERNEL = (6, 1)
OLDEST_CRIU = (4, 2)
"""Older ones fail on new kernels."""
OLDEST_CONTAINERD = (1, 7)
"""The oldest that the suites run with."""


def numbers(text: str) -> tuple[int, ...]:
    """Return the first two numbers in a version; fewer if it has no two."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def too_old(text: str, oldest: tuple[int, ...]) -> str:
    """Return what is wrong with a version, in words; empty if it is new enough."""
    if numbers(text) >= oldest:
        return ""
    return f"{text}, and {'.'.join(map(str, oldest))} is the oldest that will do"
