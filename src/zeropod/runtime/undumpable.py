"""What CRIU has no image for, found among a process's open files before a dump is tried and fails.

Only what no version of CRIU dumps: with an anonymous inode of any other kind it is asked. CRIU says `Unknown file type`
or `Can't dump … of that type [anon]` of these (`dump_unsupp_fd` in criu/files.c), or nothing at all.
"""

import contextlib
import os
from collections.abc import Iterable

KINDS = {
    "[io_uring]": "io_uring",
    "[perf_event]": "perf events",
    "[userfaultfd]": "userfaultfd",
    "bpf-prog": "BPF programs",
    "bpf_link": "BPF links",
    "kvm-vm": "KVM",
}
"""What users call it, by the name of the anonymous inode behind the file."""

SEMAPHORE = "eventfd-semaphore: 1"
"""Of a file in fdinfo (Linux 6.5): CRIU 4.2 restores it without EFD_SEMAPHORE, so that it counts differently."""

_LINK = "anon_inode:"


def found(pids: Iterable[int]) -> str:
    """The first such kind that one of the processes has open, in words; empty if there is none."""
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if not link.startswith(_LINK):
                        continue
                    if kind := KINDS.get(link.removeprefix(_LINK)):
                        return kind
                    if link.endswith("[eventfd]") and _is_semaphore(f"/proc/{pid}/fdinfo/{name}"):
                        return "eventfd with EFD_SEMAPHORE"
    return ""


def _is_semaphore(info: str) -> bool:
    with open(info) as file:
        return SEMAPHORE in file.read().splitlines()
