"""What the shim of a pod occupies, and what the kernel keeps for the pod's network."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tests.integration.sleep.helpers.stage import App

from zeropod.kernel.sock_diag import SockDiag, TcpState


@dataclass(frozen=True, slots=True)
class Open:
    """What connections would leave behind."""

    descriptors: int
    threads: int
    sockets: int
    """In the pod's network namespace; those in TIME_WAIT, which are no sockets any more, are left out."""

    def __le__(self, other: "Open") -> bool:
        return self.descriptors <= other.descriptors and self.threads <= other.threads and self.sockets <= other.sockets


@dataclass(frozen=True, slots=True)
class Footprint:
    open: Open
    kilobytes: int
    """Of the shim's own memory, whether or not it shares it with a process that it has forked."""

    @classmethod
    def of(cls, app: App) -> "Footprint":
        shim = Path(f"/proc/{shim_of(app)}")
        with closing(SockDiag(app.network)) as diag:
            sockets = len(diag.tcp(frozenset(TcpState) - {TcpState.TIME_WAIT}))
        opened = Open(len(list((shim / "fd").iterdir())), len(list((shim / "task").iterdir())), sockets)
        rollup = (line.split() for line in (shim / "smaps_rollup").read_text().splitlines()[1:])
        memory = {words[0]: int(words[1]) for words in rollup}
        return cls(opened, memory["Anonymous:"])


def shim_of(app: App) -> int:
    """The shim is the parent of whatever runs in the container, and of the pod's first process."""
    parent = Path(f"/proc/{app.status.pid}/stat").read_text().rpartition(")")[2].split()[1]
    return int(parent)
