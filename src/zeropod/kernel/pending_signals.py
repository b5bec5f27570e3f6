"""Signals that were sent to a process and that it has not handled yet.

Owns the fields of /proc/PID/task/TID/status about signals, and how they add up.

Source of facts: proc_pid_status(5), signal(7).
"""

import os

from zeropod.kernel import proc_stat


def is_due(pid: int) -> bool:
    """Return whether a signal is pending that a thread of the process will handle as soon as it runs.

    One that all threads block, or that is ignored, is not. False for a process that has ended.
    """
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
        return any(_is_due(proc_stat.status(pid, int(task))) for task in tasks)
    except (FileNotFoundError, ProcessLookupError):
        return False


def _is_due(status: dict[str, str]) -> bool:
    own, shared, blocked, ignored = (int(status[name], 16) for name in ("SigPnd", "ShdPnd", "SigBlk", "SigIgn"))
    return bool((own | shared) & ~blocked & ~ignored)
