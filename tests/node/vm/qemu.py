"""QEMU's process: how it is started, its monitor, its end; and whether this machine's KVM can run a kernel at all.

The machine ends with the process that started it, even when that is killed. Nothing of the host is lent to it: the
disks are files, there is no network, and what it has to say comes through two sockets that nobody else can reach.
"""

import json
import os
import select
import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.node.cache import NodeError

PROGRAM = "qemu-system-x86_64"

MEMORY = 4096
"""MiB; what the machine does not touch costs nothing."""

PROBE = 30.0
"""Seconds in which a kernel says something under a KVM that works; there it takes one."""

SLOW = (
    # No time for what cannot go wrong in a machine of one hour's life, nor for what takes slowness for a fault.
    "mitigations=off tsc=reliable nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "panic=-1 console=ttyS0 quiet systemd.show_status=auto"
)


@dataclass(frozen=True, slots=True)
class Acceleration:
    """What runs the machine's instructions, and how many times longer tests should wait for what happens then."""

    name: str
    options: tuple[str, ...]
    patience: int


KVM = Acceleration("KVM", ("-accel", "kvm", "-cpu", "host", "-smp", str(min(os.cpu_count() or 1, 4))), 2)
# A processor with less to emulate: with all that QEMU knows, everything takes a third longer. And one alone: with two,
# QEMU 7.2 now and then loses the race when the kernel patches its own code (a static key in __schedule), and it panics.
TCG = Acceleration("emulation", ("-accel", "tcg", "-cpu", "Nehalem", "-smp", "1"), 20)


@dataclass(frozen=True, slots=True)
class Parts:
    """The files that a machine is made of. `disk` is written to only if `keep`; `memory` is to go on from."""

    kernel: Path
    initrd: Path
    disk: Path
    checkout: Path
    keep: bool = False
    memory: Path | None = None


def version() -> str:
    """QEMU's version, which decides whether it understands a memory that was kept."""
    try:
        done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, timeout=30, check=True)
    except FileNotFoundError:
        raise NodeError(f"{PROGRAM} is not here; ./justw installs what is missing") from None
    return done.stdout.splitlines()[0]


def acceleration(kernel: Path, initrd: Path) -> Acceleration:
    """KVM if a kernel really runs under it: in some sandboxes /dev/kvm can be opened and runs none."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    command = [
        PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", *KVM.options, "-m", "512",
        "-kernel", str(kernel), "-initrd", str(initrd), "-append", f"{SLOW} probe", "-serial", "stdio",
    ]  # fmt: skip
    with started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as probe:
        assert probe.stdout is not None
        said, deadline = b"", time.monotonic() + PROBE
        try:
            while select.select([probe.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                data = os.read(probe.stdout.fileno(), 4096)
                said += data
                if b"kernel runs" in said:
                    return KVM
                # It stays there after that, stopped.
                if not data or b"KVM internal error" in said:
                    break
        finally:
            probe.kill()
    return TCG


def started(command: Sequence[str], **settings: Any) -> "subprocess.Popen[bytes]":
    """Start a process that ends with us, however we end."""
    return subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command], **settings)


class Machine:
    """A machine that runs from the start of the context to its end. `port` is the host's end of the agent's."""

    def __init__(self, parts: Parts, how: Acceleration, directory: Path) -> None:
        self._parts = parts
        self._how = how
        self._directory = directory
        self._stack = ExitStack()

    @property
    def console(self) -> Path:
        """What the kernel and systemd have to say."""
        return self._directory / "console.log"

    def __enter__(self) -> Self:
        pairs = [socket.socketpair() for _ in range(2)]
        self.port, self._monitor = (self._stack.enter_context(pair[0]) for pair in pairs)
        theirs = [pair[1].fileno() for pair in pairs]
        # The layer over the disk is an unlinked temporary file of QEMU's.
        environment = {**os.environ, "TMPDIR": str(self._directory)}
        self._process = started(
            command(self._parts, self._how, self.console, *theirs),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=theirs,
            env=environment,
        )
        self._stack.callback(self._end)
        for pair in pairs:
            pair[1].close()
        self._answers = self._stack.enter_context(self._monitor.makefile("r"))
        self._monitor.settimeout(60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        status = self._process.poll()
        self._stack.close()
        if isinstance(error, NodeError):
            said = self.console.read_text(errors="replace") if self.console.exists() else ""
            tail = "\n".join(said.splitlines()[-120:])
            ended = "" if status is None else f"; QEMU has ended with {status}"
            raise NodeError(f"{error}{ended}; the end of its console:\n{tail}") from None

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def cpu_seconds(self) -> float:
        """What it has used of a CPU so far: how long it would have taken on a machine that does nothing else."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, execute: str, **arguments: Any) -> Any:
        """A command of QEMU's monitor, and what it returns. Raises NodeError with QEMU's words."""
        self._monitor.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode())
        while line := self._answers.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise NodeError(f"QEMU does not {execute}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise NodeError(f"QEMU ended before it would {execute}; see {self.console}")

    def keep(self, memory: Path, timeout: float) -> None:
        """Write the machine's memory and devices to a file, from which others go on, and end it."""
        self.ask("qmp_capabilities")
        self.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 60_000})
        self.ask("migrate", uri=f"exec:cat >{shlex.quote(str(memory))}")
        deadline = time.monotonic() + timeout
        while (found := self.ask("query-migrate"))["status"] not in ("completed", "failed", "cancelled"):
            if time.monotonic() > deadline:
                raise NodeError(f"QEMU did not write the machine's memory within {timeout:.0f} s")
            time.sleep(0.1)
        if found["status"] != "completed":
            raise NodeError(f"QEMU cannot write the machine's memory: {found.get('error-desc', found['status'])}")
        self.ask("quit")
        self._process.wait(60)


def command(parts: Parts, how: Acceleration, console: Path, port: int, monitor: int) -> list[str]:
    """QEMU's command line; `port` and `monitor` are descriptors of connected sockets."""
    disk = "snapshot=off" if parts.keep else "snapshot=on"
    going_on = ["-incoming", f"exec:cat {shlex.quote(str(parts.memory))}"] if parts.memory else []
    return [
        PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none",
        *how.options, "-m", str(MEMORY),
        "-kernel", str(parts.kernel), "-initrd", str(parts.initrd), "-append", SLOW,
        "-drive", f"file={_escaped(parts.disk)},format=raw,if=none,id=disk,cache=unsafe,discard=unmap,{disk}",
        "-device", "virtio-blk-pci,drive=disk",
        "-drive", f"file={_escaped(parts.checkout)},format=raw,if=none,id=checkout,readonly=on",
        "-device", "virtio-blk-pci,drive=checkout",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=node,fd={port}", "-device", "virtserialport,chardev=node,name=node",
        "-chardev", f"file,id=console,path={_escaped(console)}", "-serial", "chardev:console",
        "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control",
        *going_on,
    ]  # fmt: skip


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")
