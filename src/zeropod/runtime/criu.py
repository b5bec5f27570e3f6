"""What zeropod asks of CRIU beyond runc's flags, and what CRIU says when it refuses.

Options reach CRIU through a configuration file that runc is pointed to by the annotation `org.criu.config`; a file of
the user's own is included first. `network-lock skip` is always ours: CRIU's own lock drops everything in the network
namespace, new connections too, and costs two iptables processes on each way (seen: restore 170 ms against 75 ms).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from zeropod import paths
from zeropod.runtime.errors import CriuError

CONFIG_ANNOTATION = "org.criu.config"
DEFAULT_CONFIG = Path("/etc/criu/runc.conf")
"""What runc hands to CRIU when the annotation is not set (runc's `handleCriuConfigurationFile`)."""

WHERE_WATCHED = "/."
"""Where CRIU looks for what a container watches by inotify: an overlay, unlike other file systems, does not tell it by
the file's handle (CRIU up to 4.2; https://github.com/checkpoint-restore/criu/pull/3043). It does not leave the overlay.
As the plain root it would be an empty path."""

_ERROR = re.compile(r"^\([\d.]+\)\s*(?:\d+:\s*)?(Error \(.*)$", re.MULTILINE)
_ENDING = b"Unfreezing tasks into 2"
_HARMLESS = "Can't setup RLIMIT_NOFILE"
"""Said where CRIU may not raise its own limit; it goes on, and fails for another reason or not at all."""


def checkpoint_options(*, tcp_established: bool) -> list[str]:
    """Flags for `runc checkpoint`.

    Connections in an accept queue are not dumped: they wait in the listener that the shim holds.
    """
    return ["--tcp-skip-in-flight", *_options(tcp_established=tcp_established)]


def restore_options(*, lazy: bool, tcp_established: bool) -> list[str]:
    """Flags for `runc restore`."""
    return [*(["--lazy-pages"] if lazy else []), *_options(tcp_established=tcp_established)]


def _options(*, tcp_established: bool) -> list[str]:
    return ["--ext-unix-sk", "--file-locks", *(["--tcp-established"] if tcp_established else [])]


def configuration(own: str, *, tcp_established: bool = True, stopped: bool = False, more: Sequence[str] = ()) -> str:
    """The text of CRIU's configuration file: the user's `own`, then what must hold, `more` lines among it.

    Without `tcp_established`, connections are dumped and restored as closed sockets. `stopped` is for a restore: it
    leaves every process in SIGSTOP, before its first instruction.
    """
    ours = [
        "network-lock skip",
        f"irmap-scan-path {WHERE_WATCHED}",
        *([] if tcp_established else ["tcp-close"]),
        *(["leave-stopped"] if stopped else []),
    ]
    return "\n".join([*filter(None, [own.rstrip()]), *ours, *more, ""])


def has_dumped(log: Path) -> bool:
    """Whether a dump that failed has failed in its last step: the image is whole, and the processes were being ended.

    CRIU says so before it ends the first (`cr_dump_finish`; 2 is its TASK_DEAD). Beyond that there is no way back.
    """
    try:
        return _ENDING in log.read_bytes()
    except OSError:
        return False


def explain(log: Path, failure: Exception) -> CriuError:
    """The error to report: the first errors of CRIU's log (the later ones are consequences) and runc's own words."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        if "executable file not found" in str(failure):
            return CriuError(f"{failure}: put CRIU 4.2 or newer into {paths.PROGRAMS} or on containerd's PATH")
        return CriuError(f"{failure} (CRIU left no log at {log})")
    errors = [error for error in _ERROR.findall(text) if _HARMLESS not in error]
    said = "; ".join(dict.fromkeys(errors[:3])) or (text.strip().splitlines() or ["nothing"])[-1]
    return CriuError(f"{failure}; CRIU said: {said}")
