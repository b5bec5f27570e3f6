"""The programs that the shim runs, and runc's state directory; separate, so that `delete` imports little else."""

import os

from zeropod import paths

RUNC_ROOT = "/run/containerd/runc"
"""Where containerd's runc shim keeps runc's state, in one directory for each of containerd's namespaces."""

UNFINISHED = "network-lock"
"""The beginning of CRIU's configuration: an option without its value, which alone is an error. CRIU gets only this if
its shim has died, and must then fail: nothing would hold the container's sockets during the dump."""

QUICK = 60.0
"""Timeout in seconds of commands that only start, signal or remove something."""


_CONTAINERDS = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
"""Variables that systemd sets for containerd itself. Because of the first, runc would create a socket for each
container and wait there for its readiness (sd_notify(3))."""


def environment() -> dict[str, str]:
    """Return our environment with the installer's programs, such as criu, first on PATH, without containerd's own."""
    ours = {name: value for name, value in os.environ.items() if name not in _CONTAINERDS}
    return {**ours, "PATH": f"{paths.PROGRAMS}:{ours.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}
