"""Our pager against `criu lazy-pages`: the same containers, in turn, in one run.

    tests/node/enter env PYTHONPATH=/node/site:/src:/src/src python3 -m tests.integration.pager.compare [APP]

Each cycle falls asleep as the shim does it (dump, lazy restore of stopped tasks, freeze), looks at the memory, wakes
the container by a connection, and asks on until every page is in. CRIU's pager is stopped while it is frozen.
"""

import argparse
import json
import os
import random
import select
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trio

from zeropod.kernel import namespace, sockets
from zeropod.runtime.pager import Pager, WorkingSet
from zeropod.runtime.pager.journal import Phase

Result = TypeVar("Result")
NAME = "pager-compare"
ROOT = Path("/tmp/pager-compare")
BUNDLE, IMAGES, WORK = ROOT / "bundle", Path("/var/lib/zeropod/pager-compare"), ROOT / "work"
FREEZER = Path("/sys/fs/cgroup/freezer") / NAME / "freezer.state"
NETWORK = Path("/run/netns") / NAME
CRIU = Path("/etc/criu/default.conf")
PORT = 80
OUTPUTS: list[int] = []
"""Where containers write to."""
CAPABILITIES = ["CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL"]
REDIS = ["redis-server", "--save", "--protected-mode", "no", "--port", "80", "--enable-debug-command", "yes"]
REDIS.insert(2, "")


@dataclass(frozen=True, slots=True)
class App:
    arguments: list[str]
    ask: Callable[[], bytes]
    keys: int = 0
    """Values of 1 kB that redis holds."""


def get() -> bytes:
    return b"GET / HTTP/1.0\r\n\r\n"


APPS = {
    "nginx": App(["nginx", "-g", "daemon off;"], get),
    "python": App(["python3", "-m", "http.server", str(PORT)], get),
    "redis": App(REDIS, lambda: b"GET key:5\r\n"),
    "redis-350MB": App(REDIS, lambda: b"GET key:%d\r\n" % random.randrange(300_000), 300_000),
}


@dataclass(frozen=True, slots=True)
class Cycle:
    """Times in milliseconds, memory in kB."""

    resident: int
    pager_pss: int
    pager_private: int
    faults: int
    """Until the first byte; CRIU's pager does not count."""
    first: float
    drain: float
    slowest: float
    """The longest request until the last page was in."""
    rate: float
    """Requests a second meanwhile."""


class Ours:
    wanted: WorkingSet = ()

    def __init__(self) -> None:
        self.pager = Pager.start(IMAGES, WORK, Ours.wanted, say=print)
        self.filled = 0

    @property
    def pid(self) -> int:
        return self.pager.pid

    async def restored(self) -> None:
        await self.pager.guarded()

    async def frozen(self) -> None:
        self.filled = await self.pager.fill()
        with trio.move_on_after(0.1):
            await self.pager.run()

    def thawed(self) -> None:
        self.pager.drain()

    def faults(self) -> int:
        return 0 if self.pager.ended else self.pager.journal.faults

    def finished(self) -> bool:
        # Nothing else runs here meanwhile, as it does in a shim: the guards are closed by `finish`.
        return self.pager.ended or self.pager.journal.phase is Phase.DONE

    async def finish(self) -> None:
        with trio.fail_after(30):
            if not self.pager.ended:
                await self.pager.run()
        Ours.wanted = self.pager.working_set


class Theirs:
    def __init__(self) -> None:
        log = str(WORK / "lazy.log")
        self.process = subprocess.Popen(["criu", "lazy-pages", "-D", str(IMAGES), "-W", str(WORK), "-o", log])
        self.pid = self.process.pid
        while not (WORK / "lazy-pages.socket").exists():
            time.sleep(0.001)

    async def restored(self) -> None: ...

    async def frozen(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)  # not Popen's own method, which would reap it if it has ended

    def thawed(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def faults(self) -> int:
        return 0

    def finished(self) -> bool:
        return ended(self.pid)

    async def finish(self) -> None:
        if status := self.process.wait(30):
            raise SystemExit(f"criu lazy-pages ended with {status}")


def ended(pid: int) -> bool:
    return bool(os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT))


PAGERS: dict[str, type[Ours] | type[Theirs]] = {"ours": Ours, "criu": Theirs}


def configure_criu(text: str) -> None:
    CRIU.write_text(text)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def detached(*command: str) -> None:
    """For what leaves a container behind: its output is a pipe, which CRIU can connect again."""
    reading, writing = os.pipe()
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(command)}: {os.read(reading, 4000).decode(errors='replace')}") from error
    finally:
        os.close(writing)
    OUTPUTS.append(reading)


def in_pod(call: Callable[[], Result]) -> Result:
    with namespace.entered(NETWORK):
        return call()


def pids() -> list[int]:
    return [int(pid) for pid in (FREEZER.parent / "cgroup.procs").read_text().split()]


def freezer(state: str) -> None:
    FREEZER.write_text(state)
    while FREEZER.read_text().strip() != state:
        time.sleep(0.0005)


def listeners() -> list[socket.socket]:
    found = []
    inodes = {inode for pid in pids() for _, inode in sockets.sockets_of(pid)}
    for one in sockets.duplicate(pids(), inodes).values():
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.append(one)
        else:
            one.close()
    return found


def memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # CRIU's pager may have brought everything in before the container was frozen
        return dict.fromkeys(("Pss", "Private_Clean", "Private_Dirty"), 0)
    fields = map(str.split, lines)
    return {words[0][:-1]: int(words[1]) for words in fields if len(words) == 3}


@contextmanager
def container(app: App) -> Iterator[None]:
    for directory in (ROOT, IMAGES):
        shutil.rmtree(directory, ignore_errors=True)
    rootfs = BUNDLE / "rootfs"
    for directory in (rootfs, WORK):
        directory.mkdir(parents=True)
    # A copy: CRIU cannot tell the layers of an overlay on an overlay, which the node's root is.
    run("mount", "-t", "tmpfs", "rootfs", str(rootfs))
    run("cp", "-a", "/usr", "/etc", "/lib", "/lib64", "/bin", "/sbin", str(rootfs))
    for name in ("var/log/nginx", "var/lib/nginx", "proc", "sys", "dev", "tmp", "run"):
        (rootfs / name).mkdir(parents=True)
    run("runc", "spec", "-b", str(BUNDLE))
    nginx = rootfs / "etc/nginx/nginx.conf"
    nginx.write_text("user root;\n" + "\n".join(nginx.read_text().splitlines()[1:]))
    spec = json.loads((BUNDLE / "config.json").read_text())
    allowed = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    spec["process"] |= {"terminal": False, "rlimits": [], "args": app.arguments, "capabilities": allowed}
    spec["root"]["readonly"] = False
    kept = [one for one in spec["linux"]["namespaces"] if one["type"] not in ("network", "cgroup")]
    spec["linux"]["namespaces"] = [*kept, {"type": "network", "path": str(NETWORK)}]
    (BUNDLE / "config.json").write_text(json.dumps(spec))
    run("ip", "netns", "add", NAME)
    run("ip", "-n", NAME, "link", "set", "lo", "up")
    run("ip", "netns", "exec", NAME, "sysctl", "-qw", "net.ipv4.tcp_migrate_req=1")
    detached("runc", "run", "-d", "-b", str(BUNDLE), NAME)
    try:
        time.sleep(1.5)
        yield
    finally:
        if FREEZER.exists():
            FREEZER.write_text("THAWED")
        subprocess.run(["runc", "delete", "-f", NAME], capture_output=True, timeout=20, check=False)
        time.sleep(0.3)
        subprocess.run(["umount", str(rootfs)], check=False)
        subprocess.run(["ip", "netns", "del", NAME], check=False)
        shutil.rmtree(IMAGES, ignore_errors=True)


def fill(app: App) -> None:
    if app.keys:
        with in_pod(lambda: socket.create_connection(("127.0.0.1", PORT))) as client:
            client.sendall(b"DEBUG POPULATE %d key 1000\r\n" % app.keys)
            client.settimeout(60)
            client.recv(100)


async def cycle(app: App, pager: type[Ours] | type[Theirs]) -> Cycle:
    await trio.sleep(0.3)  # for the last connection to be closed
    held = listeners()
    for directory in (IMAGES, WORK):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    configure_criu("network-lock skip\n")
    freezer("FROZEN")
    paths = ["--image-path", str(IMAGES), "--work-path", str(WORK)]
    run("runc", "checkpoint", "--tcp-skip-in-flight", *paths, NAME)
    for one in held:
        os.fchown(one.fileno(), 0, 0)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    served = pager()
    configure_criu("network-lock skip\nleave-stopped\n")
    detached("runc", "restore", "-d", "--lazy-pages", *paths, "-b", str(BUNDLE), NAME)
    await served.restored()
    freezer("FROZEN")
    for pid in pids():
        os.kill(pid, signal.SIGCONT)
    await served.frozen()
    for one in held:
        one.close()
    held = listeners()
    poll = select.poll()
    for one in held:
        poll.register(one, select.POLLIN)
    await trio.sleep(0.3)
    resident = sum(memory(pid)["Rss"] for pid in pids())
    own = memory(served.pid)

    client = in_pod(lambda: socket.socket())
    client.settimeout(10)
    faults = served.faults()
    began = time.perf_counter()
    client.connect(("127.0.0.1", PORT))
    client.sendall(app.ask())
    poll.poll(1000)
    FREEZER.write_text("THAWED")
    thawed = time.perf_counter()
    served.thawed()
    for one in held:
        one.close()
    client.recv(30)
    first = time.perf_counter() - began
    faults = served.faults() - faults
    client.close()
    requests, slowest = 0, 0.0
    with namespace.entered(NETWORK):
        while not served.finished():
            asked, answered = ask(app)
            slowest = max(slowest, answered - asked)
            requests += 1
    drained = time.perf_counter() - thawed
    await served.finish()
    private = own["Private_Clean"] + own["Private_Dirty"]
    return Cycle(resident, own["Pss"], private, faults, first * 1e3, drained * 1e3, slowest * 1e3, requests / drained)


def ask(app: App) -> tuple[float, float]:
    with socket.socket() as client:
        client.settimeout(10)
        began = time.perf_counter()
        client.connect(("127.0.0.1", PORT))
        client.sendall(app.ask())
        if not client.recv(30):
            raise SystemExit("no answer")
        return began, time.perf_counter()


def show(name: str, cycles: list[Cycle]) -> None:
    def spread(values: list[float]) -> str:
        ordered = sorted(values)
        middle = statistics.median(ordered)
        return f"{middle:8.2f} ({ordered[len(ordered) // 10]:.2f} to {ordered[-1 - len(ordered) // 10]:.2f})"

    print(f"  {name} ({len(cycles)} cycles, median and 10th to 90th percentile)")
    for field in Cycle.__dataclass_fields__:
        print(f"    {field:14} {spread([getattr(one, field) for one in cycles])}", flush=True)


async def compare(names: list[str], cycles: int, pagers: list[str]) -> None:
    CRIU.parent.mkdir(exist_ok=True)
    for name in names:
        app = APPS[name]
        results: dict[str, list[Cycle]] = {pager: [] for pager in pagers}
        Ours.wanted = ()
        with container(app):
            fill(app)
            for number in range(cycles + 1):
                for pager in pagers:
                    done = await cycle(app, PAGERS[pager])
                    if number:  # the first has no working set, and caches are cold
                        results[pager].append(done)
        print(name)
        for pager, done_ones in results.items():
            show(pager, done_ones)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("apps", nargs="*", default=list(APPS))
    parser.add_argument("--cycles", type=int, default=10)
    parser.add_argument("--pager", action="append", choices=list(PAGERS))
    arguments = parser.parse_args()
    trio.run(compare, arguments.apps, arguments.cycles, arguments.pager or list(PAGERS))


if __name__ == "__main__":
    main()
