"""Probers beside a test: the kubelet's processes, or a thread that merely has a name."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.integration.probes.helpers import kubelet

PROGRAM = kubelet.__file__ or ""


@dataclass(frozen=True, slots=True)
class Outcome:
    kind: str
    ok: bool
    milliseconds: float
    reason: str


@dataclass(slots=True)
class Prober:
    """A process that probes by itself."""

    kind: str
    process: "subprocess.Popen[str]"

    def outcomes(self, timeout: float = 60.0) -> list[Outcome]:
        """All of them, once it has ended."""
        output, _ = self.process.communicate(timeout=timeout)
        lines = [line.split(" ", 2) for line in output.splitlines()[1:]]
        return [Outcome(self.kind, line[0] == "ok", float(line[1]), line[2]) for line in lines]


def probe(kind: str, address: str, port: int, seconds: float, count: int, name: str = "kubelet") -> Prober:
    command = [sys.executable, PROGRAM, kind, address, str(port), str(seconds), str(count), name]
    return Prober(kind, subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


@contextmanager
def named(name: str) -> Iterator[None]:
    """The calling thread has this name: a hint to the kernel's program, while the process is no prober."""
    comm = Path("/proc/thread-self/comm")
    before = comm.read_text().strip()
    comm.write_text(name)
    try:
        yield
    finally:
        comm.write_text(before)
