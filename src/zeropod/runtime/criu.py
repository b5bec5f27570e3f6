"""CRIU's options beyond runc's flags, and CRIU's own errors.

Options reach CRIU through a configuration file that the annotation `org.criu.config` names to runc; the user's own file
is included first. `network-lock skip` is always set: CRIU's own lock drops all traffic of the network namespace, new
connections too, and runs two iptables processes each at dump and restore (measured: restore 170 ms against 75 ms).
"""

import re
from collections.abc import Sequence
from pathlib import Path

from zeropod import paths
from zeropod.runtime.errors import CriuError

CONFIG_ANNOTATION = "org.criu.config"
DEFAULT_CONFIG = Path("/etc/criu/runc.conf")
"""The file that runc passes to CRIU without the annotation (runc's `handleCriuConfigurationFile`)."""

WHERE_WATCHED = "/."
"""Where CRIU searches for files that a container watches by inotify: on an overlay, unlike other file systems, it does
not find them by handle (CRIU up to 4.2; https://github.com/checkpoint-restore/criu/pull/3043). The search stays within
the overlay. CRIU would take a plain `/` for an empty path."""

_ERROR = re.compile(r"^\([\d.]+\)\s*(?:\d+:\s*)?(Error \(.*)$", re.MULTILINE)
_ENDING = b"Unfreezing tasks into 2"
_HARMLESS = "Can't setup RLIMIT_NOFILE"
"""An error of CRIU when it may not raise its own limit; it continues, so this is never why it fails."""


def checkpoint_options(*, tcp_established: bool) -> list[str]:
    """Return flags for `runc checkpoint`.

    Connections in an accept queue are not dumped: they wait in the listener that the shim holds.
    """
    return ["--tcp-skip-in-flight", *_options(tcp_established=tcp_established)]


def restore_options(*, lazy: bool, tcp_established: bool) -> list[str]:
    return [*(["--lazy-pages"] if lazy else []), *_options(tcp_established=tcp_established)]


def _options(*, tcp_established: bool) -> list[str]:
    return ["--ext-unix-sk", "--file-locks", *(["--tcp-established"] if tcp_established else [])]


def configuration(own: str, *, tcp_established: bool = True, stopped: bool = False, more: Sequence[str] = ()) -> str:
    """Return the text of CRIU's configuration file: the user's `own`, then our mandatory options with `more` lines.

    Without `tcp_established`, connections are dumped and restored as closed sockets. `stopped` makes a restore leave
    every process stopped by SIGSTOP, before its first instruction.
    """
    ours = [
        "network-lock skip",
        f"irmap-scan-path {WHERE_WATCHED}",
        *([] if tcp_established else ["tcp-close"]),
        *(["leave-stopped"] if stopped else []),
    ]
    return "\n".join([*filter(None, [own.rstrip()]), *ours, *more, ""])


def has_dumped(log: Path) -> bool:
    """Return whether a failed dump failed in its last step: the image is complete, and CRIU was killing processes.

    CRIU logs that before it kills the first one (`cr_dump_finish`; 2 is its TASK_DEAD). After that the dump cannot be
    undone.
    """
    try:
        return _ENDING in log.read_bytes()
    except OSError:
        return False


def explain(log: Path, failure: Exception) -> CriuError:
    """Return the error to report: the first errors of CRIU's log (later ones are consequences) and runc's error."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        if "executable file not found" in str(failure):
            return CriuError(f"{failure}: put CRIU 4.2 or newer into {paths.PROGRAMS} or on containerd's PATH")
        return CriuError(f"{failure} (CRIU left no log at {log})")
    errors = [error for error in _ERROR.findall(text) if _HARMLESS not in error]
    said = "; ".join(dict.fromkeys(errors[:3])) or (text.strip().splitlines() or ["nothing"])[-1]
    return CriuError(f"{failure}; CRIU said: {said}")
