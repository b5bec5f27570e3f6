"""`delete`, which containerd runs after every container, and for a dead shim.

After an ordinary end nothing is left to do, as a note of the shim in the bundle says. A pod is gone only after this
response, so this module, like `start`, imports only modules that are built into the interpreter.
"""

import posix
import sys
import time

from zeropod.launch.flags import Flags
from zeropod.launch.zygote_client import read

REMOVED = "removed"
"""The name of that note: the container has left nothing on the node, and the last one nothing of the pod."""

EXIT_STATUS = 128 + 9
"""As after SIGKILL, which containerd assumes, too."""


def main(flags: Flags) -> int:
    """Print containerd's DeleteResponse; complaints go to stderr."""
    bundle = flags.bundle or f"{posix.getcwd().rpartition('/')[0]}/{flags.id}"
    pid = _pid(bundle)
    try:
        posix.stat(f"{bundle}/{REMOVED}")
    except OSError:
        _clean_up(flags, bundle)
    sys.stdout.buffer.write(response(pid, time.time_ns()))
    return 0


def _clean_up(flags: Flags, bundle: str) -> None:
    """Clean up in a child process, which survives this one.

    containerd kills `delete` after five seconds, and does not call it again. A pod of many containers may take longer
    on a busy node. The child's complaints still reach containerd's log. By then the bundle does not belong to
    containerd any more.
    """
    own = posix.getpid()
    if child := posix.fork():
        if posix.waitpid(child, 0)[1]:
            sys.exit(1)
        return
    status = 1
    try:
        posix.setsid()
        from pathlib import Path

        from zeropod.shim import clean

        complaints = clean.clean_up(flags, Path(bundle))
        if posix.getppid() != own:
            complaints += clean.remove_abandoned_bundle(flags.id, Path(bundle))
        for complaint in complaints:
            sys.stderr.write(f"containerd-shim-zeropod-v2: {complaint}\n")
        status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
        posix._exit(status)


def response(pid: int, at_ns: int) -> bytes:
    """Return a containerd.task.v3.DeleteResponse: 1 pid, 2 exit status, 3 exit time (1 seconds, 2 nanoseconds)."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    exited_at = b"\x08" + _varint(seconds) + b"\x10" + _varint(nanoseconds)
    return b"\x08" + _varint(pid) + b"\x10" + _varint(EXIT_STATUS) + b"\x1a" + _varint(len(exited_at)) + exited_at


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _pid(bundle: str) -> int:
    try:
        return int(read(f"{bundle}/init.pid"))
    except (OSError, ValueError):
        return 0
