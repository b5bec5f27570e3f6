"""`delete`: what containerd runs after every container, and when a shim is dead.

After an ordinary end nothing is left to do, which the shim notes in the bundle. containerd waits for that answer before
a pod is gone, so it needs, like `start`, only modules that are built into the interpreter.
"""

import posix
import sys
import time

from zeropod.launch.flags import Flags
from zeropod.launch.zygote_client import read

REMOVED = "removed"
"""The name of the note, in the bundle: its container has left nothing on the node, nor its pod with the last."""

EXIT_STATUS = 128 + 9
"""As if SIGKILL had ended it, which containerd assumes too."""


def main(flags: Flags) -> int:
    """Prints containerd's DeleteResponse; what could not be removed is said on stderr."""
    bundle = flags.bundle or f"{posix.getcwd().rpartition('/')[0]}/{flags.id}"
    pid = _pid(bundle)
    try:
        posix.stat(f"{bundle}/{REMOVED}")
    except OSError:
        _clean_up(flags, bundle)
    sys.stdout.buffer.write(response(pid, time.time_ns()))
    return 0


def _clean_up(flags: Flags, bundle: str) -> None:
    """By a child, which goes on when this process is ended: containerd does that after five seconds, and asks no more.

    A pod of many containers may take longer on a node that is busy, and nothing else would end them. What the child
    complains about gets into containerd's log even so. The container's bundle is not containerd's any more then.
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

        complaints = clean.up(flags, Path(bundle))
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
    """containerd.task.v3.DeleteResponse: 1 pid, 2 exit status, 3 time of the exit (1 seconds, 2 nanoseconds)."""
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
