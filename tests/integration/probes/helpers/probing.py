"""ProbeSources beside a test: the kubelet's processes, or a thread that merely has a name."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.integration import cri
from tests.integration.patience import patient
from tests.integration.probes.helpers import kubelet
from tests.integration.sleep.helpers.stage import App

PROGRAM = kubelet.__file__ or ""
TIMEOUT = 30.0
"""Seconds for an answer. The kubelet's default is one, in which a busy machine may not have ended a dump."""

HINT = "ksoftirqd/0"
"""What this process is not, but what its connections may be taken for."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    kind: str
    ok: bool
    milliseconds: float
    reason: str


@dataclass(slots=True)
class Kubelet:
    """A process that sends probes by itself: `KIND[/PATH]:PORT` each."""

    probes: Sequence[str]
    process: "subprocess.Popen[str]"

    @classmethod
    def start(
        cls,
        address: str,
        probes: Sequence[str],
        seconds: float = 0.0,
        count: int = 1,
        *,
        timeout: float = TIMEOUT,
        source: str = "",
        thread: str = "",
    ) -> Self:
        """Each of them `count` times, once in so many seconds; `source` is the address to connect from, `thread` whose
        context the kernel receives it in, if that is not the process's own."""
        command = [sys.executable, PROGRAM, address, str(seconds), str(count), str(patient(timeout)), *probes]
        given = {"SOURCE": source, "THREAD": thread}
        environment = {**os.environ, **{name: value for name, value in given.items() if value}}
        return cls(probes, subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))

    def outcomes(self, timeout: float = 100.0) -> list[ProbeResult]:
        """All of them, once it has ended."""
        output, _ = self.process.communicate(timeout=timeout)
        lines = [line.split(" ", 3) for line in output.splitlines()]
        return [ProbeResult(self.probes[int(at)], ok == "ok", float(took), reason) for at, ok, took, reason in lines]


def probe(
    address: str, *probes: str, count: int = 1, seconds: float = 0.0, source: str = "", thread: str = ""
) -> list[ProbeResult]:
    """What comes of these probes, now."""
    return Kubelet.start(address, probes, seconds, count, source=source, thread=thread).outcomes()


@dataclass
class ExecProber:
    """Probes by `exec`, in a thread."""

    app: App
    seconds: float
    count: int
    command: Sequence[str] = ("true",)
    found: list[ProbeResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        # A connection of its own: a channel of gRPC's may not be shared by the threads of a test.
        with cri.Cri() as client:
            for _ in range(self.count):
                started, reason = time.monotonic(), ""
                try:
                    code = client.exec_sync(self.app.id, list(self.command)).exit_code
                except Exception as error:  # noqa: BLE001 - whatever it is, the probe has failed
                    code, reason = -1, repr(error)
                took = time.monotonic() - started
                self.found.append(ProbeResult("exec", code == 0, took * 1000, reason or f"exit code {code}"))
                time.sleep(max(0.0, self.seconds - took))

    def outcomes(self, timeout: float = 60.0) -> list[ProbeResult]:
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return self.found


def failures(outcomes: list[ProbeResult]) -> list[ProbeResult]:
    return [outcome for outcome in outcomes if not outcome.ok]


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
