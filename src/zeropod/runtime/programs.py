"""The programs that we run, and where runc keeps its state: what `delete` needs, too, without all the rest."""

import os

from zeropod import paths

RUNC_ROOT = "/run/containerd/runc"
"""Where containerd's runc shim keeps runc's state, one directory a namespace below it."""

UNFINISHED = "network-lock"
"""The beginning of CRIU's configuration, an option without its value: by itself it is an error. If that is all that
CRIU gets, since its shim has died, it must not dump what nobody holds."""

QUICK = 60.0
"""Seconds that a command which only starts, signals or removes something may take."""


_CONTAINERDS = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
"""What systemd says to containerd alone. runc would make a socket of its own for each container because of the first,
and wait for the container to report there (sd_notify(3))."""


def environment() -> dict[str, str]:
    """Our own, with what the installer brings first on the PATH, criu above all, without what is containerd's alone."""
    ours = {name: value for name, value in os.environ.items() if name not in _CONTAINERDS}
    return {**ours, "PATH": f"{paths.PROGRAMS}:{ours.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"}
