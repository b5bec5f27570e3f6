"""Facts about a process and its threads from /proc, read before any thread is stopped.

Source of facts: proc_pid_status(5), proc_pid_wchan(5), proc_pid_limits(5).
"""


def status(path: str) -> dict[str, str]:
    """Return the fields of a file /proc/PID/status or /proc/PID/task/TID/status. Raises OSError."""
    with open(path, errors="replace") as file:
        return {key: value.strip() for key, _, value in (line.partition(":") for line in file)}


def wchan(pid: int, tid: int) -> str:
    """Return the kernel function in which a thread waits; empty if unknown."""
    try:
        with open(f"/proc/{pid}/task/{tid}/wchan") as file:
            name = file.read()
    except OSError:
        return ""
    return "" if name == "0" else name


def descriptor_limit(pid: int) -> int:
    """Return how many descriptors a process may have; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            for line in file:
                if line.startswith("Max open files"):
                    return int(line.split()[3])
    except (OSError, ValueError):
        pass
    return 0
