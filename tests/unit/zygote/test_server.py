"""A zygote as a process: what its forks are like, and when which of them ends. The shims are stand-ins."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from zeropod.launch import zygote_client
from zeropod.launch.start import SOCKET_FD
from zeropod.launch.zygote_client import Order, ask
from zeropod.zygote import idle_fork

SECONDS = 60.0
"""For what must not hang."""

# Everything but the shim itself, which answers each connection with what it has become, and ends at the first byte.
PROGRAM = """
import json, os, socket, sys
from zeropod.launch import zygote_client
from zeropod.shim import serve
from zeropod.zygote import preparation, server
def shim(flags, listener):
    while True:
        connection, _ = listener.accept()
        kinds = [os.readlink(f"/proc/self/fd/{fd}").partition(":")[0] for fd in os.listdir("/proc/self/fd")
                 if os.path.lexists(f"/proc/self/fd/{fd}")]
        report = dict(
            pid=os.getpid(), parent=os.getppid(), session=os.getsid(0), group=os.getpgid(0), cwd=os.getcwd(),
            environment=dict(os.environ), id=flags.id, line=open("/proc/self/cmdline").read().split("\\0"),
            sockets=kinds.count("socket"), pipes=kinds.count("pipe"), umask=os.umask(0o022),
        )
        connection.sendall(json.dumps(report).encode())
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(1):
            return 0
serve.shim = shim
preparation.prepare = lambda: lambda: None
server.LINGER = float(sys.argv[2])
zygote_client.DIRECTORY = sys.argv[1]
server.main(None)
"""


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        monkeypatch.setattr(zygote_client, "DIRECTORY", f"{made}/zygotes")
        yield Path(made)


class Node:
    """Asks for shims, and remembers the zygotes that were begun on the way."""

    def __init__(self, bundle: Path) -> None:
        self.bundle = bundle
        self.zygotes: list[subprocess.Popen[bytes]] = []
        self.shims: list[str] = []
        self.linger = 0.0

    def begin(self, listener: int) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM, zygote_client.DIRECTORY, str(self.linger)]
        # The number that it is found at may be anybody's here.
        move = f"os.dup2({listener}, {SOCKET_FD}); os.set_inheritable({listener}, {listener} == {SOCKET_FD})"
        handed = f"import os; {move}; os.execv({command[0]!r}, {command!r})"
        self.zygotes.append(subprocess.Popen([sys.executable, "-c", handed], env=environment, pass_fds=[listener]))

    def shim(self, id: str, directory: str | None = None) -> int:
        path = str(self.bundle / id)
        self.shims.append(path)
        arguments = [word.encode() for word in ("zeropod-shim", "-namespace", "k8s.io", "-id", id, "start")]
        order = Order(1000, os.fsencode(directory or self.bundle), arguments, {b"ONLY": b"this", b"ID": id.encode()})
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            return ask("build", listener.fileno(), order, self.begin)

    def report(self, id: str, *, end: bool = False) -> dict[str, object]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(self.bundle / id))
            report: dict[str, object] = json.loads(client.makefile().read())
            if end:
                client.send(b"1")
            return report

    def clear(self) -> None:
        for path in self.shims:
            try:
                self.report(path, end=True)
            except (OSError, ValueError):
                continue
        for process in self.zygotes:
            process.wait(SECONDS)


@pytest.fixture
def node(bundle: Path) -> Iterator[Node]:
    made = Node(bundle)
    yield made
    made.clear()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children_of_nobody(line: str) -> list[int]:
    """Pids of the processes, zombies aside, whose command lines contain this."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            if line.encode() in Path(f"/proc/{entry}/cmdline").read_bytes():
                found.append(int(entry))
        except OSError:
            continue
    return found


def parent(pid: int) -> int:
    """0 when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_fork_becomes_what_a_program_would_have_been(node: Node) -> None:
    pid = node.shim("web")
    report = node.report("web")
    assert report["pid"] == report["session"] == report["group"] == pid
    assert (report["cwd"], report["id"]) == (str(node.bundle), "web")
    assert report["environment"] == {"ONLY": "this", "ID": "web"}
    assert report["parent"] not in (node.zygotes[0].pid, os.getpid())
    # The listener and who asks here; and the end of a pipe by which the zygote knows that it lives.
    assert (report["sockets"], report["pipes"]) == (2, 1)


def test_a_shim_that_has_been_promised_serves_though_the_zygote_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    flags: Any = object()
    monkeypatch.setattr(idle_fork, "enter", lambda order: flags)
    monkeypatch.setattr(idle_fork, "become", lambda order: None)
    monkeypatch.setattr(idle_fork, "settle", lambda order: None)
    (reader, taken), (shims, held), (alive, own) = os.pipe(), os.pipe(), os.pipe()
    os.close(reader)
    asked, asker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    order = Order(0, b"/", [b"shim"], {}).encode()
    with asked, asker, socket.socket() as listener:
        made = idle_fork._take(asked, idle_fork.Ends(socket.socket(), taken, shims, alive), order, listener.detach())
        assert made[0] is flags
        made[1].close()
        assert asker.recv(100) == b"%d" % os.getpid()
    os.close(held)
    os.close(own)


def test_it_is_called_by_its_own_arguments(node: Node) -> None:
    node.shim("web")
    line = node.report("web")["line"]
    if line == ["zeropod-shim", "-namespace", "k8s.io", "-id", "web", "start", ""]:
        return
    pytest.skip("this kernel does not let a process say what it is called by")


def test_shims_are_forks_of_one_process_and_it_ends_with_the_last(node: Node, bundle: Path) -> None:
    first, second = node.shim("first"), node.shim("second")
    assert first != second
    assert len(node.zygotes) == 1
    node.report("first", end=True)
    assert node.report("second")["pid"] == second
    assert node.zygotes[0].poll() is None
    node.report("second", end=True)
    assert node.zygotes[0].wait(SECONDS) == 0
    assert [path.name for path in (bundle / "zygotes").iterdir()] == ["lock"]
    until(lambda: not children_of_nobody(zygote_client.DIRECTORY))


def test_shims_one_after_the_other_are_forks_of_the_same_zygote(node: Node) -> None:
    node.linger = SECONDS
    for name in ("first", "second", "third"):
        node.shim(name)
        node.report(name, end=True)
    assert len(node.zygotes) == 1
    node.zygotes[0].terminate()


def test_a_shim_outlives_its_zygote_and_the_next_one_gets_another(node: Node) -> None:
    before = node.shim("before")
    node.zygotes[0].kill()
    node.zygotes[0].wait(SECONDS)
    assert node.report("before")["pid"] == before
    until(lambda: not children_of_nobody(zygote_client.DIRECTORY))  # the idle fork has gone with it
    node.shim("after")
    assert len(node.zygotes) == 2
    assert node.report("before")["pid"] == before
    assert node.report("after")["id"] == "after"


def test_a_spare_that_dies_costs_nobody_anything(node: Node) -> None:
    shim, asked = node.shim("before"), node.zygotes[0].pid

    def idle_forks() -> list[int]:
        # What stands between the zygote and its idle fork is a child of the zygote, and there for a moment.
        others = set(children_of_nobody(zygote_client.DIRECTORY)) - {shim, asked}
        return [pid for pid in others if parent(pid) not in (0, asked)]

    until(lambda: bool(idle_forks()))
    os.kill(idle_forks()[0], signal.SIGKILL)
    node.shim("after")
    assert node.report("before")["id"] == "before"
    assert node.report("after")["id"] == "after"


def test_an_order_that_cannot_be_followed_is_answered(node: Node) -> None:
    node.shim("before")
    with pytest.raises(zygote_client.ZygoteError, match="No such file"):
        node.shim("nowhere", "/nonexistent/bundle")
    node.shim("after")
    assert node.report("after")["id"] == "after"
    assert len(node.zygotes) == 1


def test_who_says_nothing_gets_no_shim(node: Node) -> None:
    node.shim("before")
    silent = zygote_client.connect(zygote_client.place("build"))
    assert silent is not None
    silent.close()
    node.shim("after")
    assert node.report("after")["id"] == "after"


FREEZE = """
import gc, json, os, sys
from zeropod.zygote import cow
try:
    cow.immortalize()
    known = True
except cow.UnknownInterpreterError:
    known = False
cow.give_back()
cow.fill_gaps()
gc.freeze()
pid = os.fork()
if pid == 0:
    gc.set_threshold(100)
    gc.enable()
    for _ in range(300):
        found = [json.loads(json.dumps({"a": [1, 2.5, None, "x"], "b": {}})) for _ in range(20)]
        found.append(found)
    gc.collect()
    assert found[0]["a"][1] == 2.5
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
assert gc.get_freeze_count() > 1000
if known:
    count = sys.getrefcount(json)
    held = [json] * 1000
    assert sys.getrefcount(json) == count, "is counted"
print("immortal" if known else "counted")
"""


def test_what_was_frozen_works_in_a_fork() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FREEZE], capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == ("counted" if sys.version_info < (3, 12) else "immortal")
