"""Three journeys as they really run: a connection in STANDBY, a fall asleep, a probe that is answered asleep.

    PYTHONPATH=.:src python3 -m tests.unit.lifecycle.journeys

prints the files that have to be open to follow each, in reading order, for docs/architecture.md; with `--calls` all
calls, with `--json` only what a test wants to know. It is a process of its own, since older threads are not seen.

As root. The container is a real process in cgroups and a network namespace of its own, under the real controller; runc
alone is a fake. Each call of a function of zeropod's is recorded as it begins, with the file that it comes from. A file
is on a journey if a function of it begins there, or goes on there and has another begin. Some are not counted:

- `kernel`, which is thin system calls, and the leaves (`concurrency`): their names say what they do;
- what only takes note, and has no effect on the way: `metrics`, `revisions`;
- of an interface with several implementations any but the interface: cgroups, and the backends of memory.

There is a reading order, in which no file has to be opened twice, if all calls lead from files to later ones.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from opcode import opmap
from pathlib import Path
from types import FrameType

import trio
from tests.unit.shim.fakes import FakeRunc, World

import zeropod
from zeropod.kernel import namespace
from zeropod.lifecycle.controller import Controller
from zeropod.lifecycle.machine import State
from zeropod.lifecycle.settings import Settings
from zeropod.lifecycle.suspend import SuspendStrategy
from zeropod.runtime.images import ImageStore

SOURCE = os.path.dirname(os.path.abspath(zeropod.__file__)) + "/"
NOT_COUNTED = ("kernel/", "concurrency.py", "paths.py", "lifecycle/metrics.py", "shim/revisions.py")
INTERFACES = {"runtime/cgroups/": "runtime/cgroups/base.py", "runtime/memory/": "runtime/memory/backend.py"}

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("freezer", "cpuacct", "memory", "blkio")
SUBNET = f"10.{64 + (os.getpid() >> 8 & 63)}.{os.getpid() & 255}"
"""Another one for each process: several may run on a machine."""

NODE, POD, PORT = f"{SUBNET}.1", f"{SUBNET}.2", 8080
PATIENCE = 20.0
"""Seconds for a change of the container's state."""

PROGRAM = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("{POD}", {PORT}), Handler).serve_forever()
"""

KUBELET = f"""
import http.client, sys
open("/proc/self/comm", "w").write("kubelet")
connection = http.client.HTTPConnection("{POD}", {PORT}, timeout=10)
connection.request("GET", "/", headers={{"User-Agent": "kube-probe/1.34", "Connection": "close"}})
sys.exit(connection.getresponse().status != 200)
"""


@dataclass(frozen=True, slots=True)
class Call:
    """A function that begins; `caller` is the counted file that it is called from, empty for a task's first one."""

    file: str
    function: str
    caller: str

    def is_of(self, function: str) -> bool:
        return self.function == function


@dataclass(frozen=True, slots=True)
class Journey:
    name: str
    calls: Sequence[Call]

    @property
    def steps(self) -> set[tuple[str, str]]:
        """From which counted files to which others calls lead."""
        found = ((call.caller, counted(call.file)) for call in self.calls)
        return {(caller, file) for caller, file in found if caller and file and caller != file}

    @property
    def files(self) -> list[str]:
        """The counted files in reading order. Raises CycleError where one would have to be opened twice."""
        sorter: TopologicalSorter[str] = TopologicalSorter()
        first: dict[str, int] = {}
        for call in self.calls:
            for each in filter(None, (call.caller, counted(call.file))):
                first.setdefault(each, len(first))
                sorter.add(each)
        for caller, file in self.steps:
            sorter.add(file, caller)
        found = []
        sorter.prepare()
        ready = set(sorter.get_ready())
        while ready:
            following = min(ready, key=first.__getitem__)
            ready.remove(following)
            found.append(following)
            sorter.done(following)
            ready |= set(sorter.get_ready())
        return found


def counted(file: str) -> str:
    """Return the file as which it counts; empty if it does not."""
    if file.startswith(NOT_COUNTED):
        return ""
    return next((interface for package, interface in INTERFACES.items() if file.startswith(package)), file)


@dataclass(slots=True)
class Recorder:
    calls: list[Call] = field(default_factory=list)
    """While it is on."""
    is_on: bool = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, all threads are looked at that begin there, and this one."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def take(self) -> list[Call]:
        """Return what was recorded, and be off."""
        self.is_on = False
        taken, self.calls = self.calls, []
        return taken

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if not self.is_on or event != "call" or not _begins(frame) or not (file := _file(frame)):
            return
        caller, before = "", frame.f_back
        while before is not None and not caller:
            caller, before = counted(_file(before)), before.f_back
        self.calls.append(Call(file, frame.f_code.co_qualname, caller))


def _file(frame: FrameType) -> str:
    name = frame.f_code.co_filename
    return name.removeprefix(SOURCE) if name.startswith(SOURCE) else ""


def _begins(frame: FrameType) -> bool:
    """Return whether it is a function that begins; a coroutine that goes on is told as a call as well."""
    code, at = frame.f_code.co_code, frame.f_lasti
    return at < 0 or code[at] != opmap["RESUME"] or code[at + 1] & 3 == 0


@dataclass(frozen=True, slots=True)
class InCgroup(FakeRunc):
    """Its process is in cgroups and a network namespace of its own."""

    cgroup: str = ""
    network: str = ""

    def _spawn(self, pid_file: Path) -> None:
        with namespace.entered(self.network):
            argv = [sys.executable, "-S", "-c", PROGRAM]
            nothing = [(os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
            pid = os.posix_spawn(argv[0], argv, {}, file_actions=nothing)
        for controller in CONTROLLERS:
            (CGROUPS / controller / self.cgroup / "cgroup.procs").write_text(str(pid))
        self.pids.append(pid)
        pid_file.write_text(str(pid))


@contextmanager
def own_cgroup() -> Iterator[str]:
    name = f"zeropod-test-{os.urandom(4).hex()}"
    for controller in CONTROLLERS:
        (CGROUPS / controller / name).mkdir()
    try:
        yield name
    finally:
        for controller in CONTROLLERS:
            for _ in range(1000):
                with suppress(OSError):
                    (CGROUPS / controller / name).rmdir()
                    break
                time.sleep(0.005)


@contextmanager
def own_network(directory: Path) -> Iterator[str]:
    """A network namespace with a link to this one."""
    path, link = str(directory / "net"), f"zp{os.getpid()}"

    def ip(*words: str, inherited: Sequence[int] = ()) -> None:
        subprocess.run(["ip", *words], check=True, timeout=10, pass_fds=inherited)

    namespace.create_pinned(path)
    try:
        with open(path) as inside:
            number = inside.fileno()
            to = ("netns", f"/proc/self/fd/{number}")
            ip("link", "add", link, "type", "veth", "peer", "name", "eth0", *to, inherited=[number])
        ip("addr", "add", f"{NODE}/24", "dev", link)
        ip("link", "set", link, "up")
        with namespace.entered(path):
            ip("addr", "add", f"{POD}/24", "dev", "eth0")
            ip("link", "set", "eth0", "up")
        yield path
    finally:
        subprocess.run(["ip", "link", "del", link], check=False, timeout=10)
        namespace.unpin(path)


async def probe() -> None:
    await trio.run_process([sys.executable, "-S", "-c", KUBELET])


async def record(directory: Path) -> list[Journey]:
    """Have each of them happen once."""
    recorder = Recorder()
    with ExitStack() as owned:
        path, cgroup = owned.enter_context(own_network(directory)), owned.enter_context(own_cgroup())
        owned.enter_context(recorder.installed())
        bundle = directory / "bundle"
        bundle.mkdir()
        async with trio.open_nursery() as nursery:
            world = World.make(bundle, nursery, Settings(scaledown=0.5, standby_memory="resident"))
            container, life = world.container, world.container.life
            container.runc = InCgroup("k8s.io", bundle, cgroup=cgroup, network=path)
            container.store = ImageStore(directory / "images")

            async def until(state: State) -> None:
                with trio.fail_after(PATIENCE):
                    while life.state is not state:
                        await life.changed()

            await container.create()
            container.controller = Controller(container, path, SuspendStrategy)
            try:
                await container.start()
                await until(State.RUNNING)
                await until(State.STANDBY)
                await probe()  # answered in a nap, as the first one of its kind
                await until(State.STANDBY)
                answered = container.probes_answered
                recorder.is_on = True
                await probe()
                probed = recorder.take()
                assert (life.state, container.probes_answered) == (State.STANDBY, answered + 1)
                recorder.is_on = True
                with socket.create_connection((POD, PORT), 5) as connection:
                    await until(State.RUNNING)
                    # Until the server has closed it, too: one that is still open would be looked at.
                    connection.shutdown(socket.SHUT_WR)
                    await trio.to_thread.run_sync(connection.recv, 1)
                await until(State.STANDBY)
                return _journeys(probed, recorder.take())
            finally:
                nursery.cancel_scope.cancel()
                (CGROUPS / "freezer" / cgroup / "freezer.state").write_text("THAWED")
                container.runc.reap()
    raise AssertionError


def _journeys(probed: Sequence[Call], used: Sequence[Call]) -> list[Journey]:
    def at(calls: Sequence[Call], found: Callable[[Call], bool], start: int = 0) -> int:
        return next(number for number in range(start, len(calls)) if found(calls[number]))

    served = at(probed, lambda call: call.is_of("Listeners._serve"))
    arrived = at(used, lambda call: call.is_of("FrozenSockets.ready"))
    running = at(used, lambda call: call.is_of("Actions._note"), arrived)
    freeze = at(used, lambda call: call.is_of("Actions._freeze"), running)
    asleep = at(used, lambda call: call.is_of("Actions._note"), freeze)
    looked = max(number for number in range(freeze) if used[number].is_of("IdleMonitor._look"))
    return [
        Journey("a connection, from its arrival to RUNNING", used[arrived:running]),
        Journey("a fall asleep, from the last look to STANDBY", used[looked:asleep]),
        Journey("a probe asleep, from its accept to its answer", probed[served:]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = trio.run(record, Path(directory))
    if options.json:
        print(json.dumps([[journey.name, journey.files, sorted(journey.steps)] for journey in found]))
        return
    for journey in found:
        ran = {call.file for call in journey.calls}
        print(f"\n{journey.name}: {len(journey.files)} files; {len(ran)} with all that is not counted")
        for file in journey.files:
            functions = dict.fromkeys(call.function for call in journey.calls if counted(call.file) == file)
            print(f"  {file:36} {', '.join(functions)}")
        if options.calls:
            for call in journey.calls:
                print(f"    {call.caller or '-':36} {call.file} {call.function}")


if __name__ == "__main__":
    main()
