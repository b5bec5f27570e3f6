"""Which shim a container gets, where it listens, and how it is started."""

import json
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from zeropod.launch import start as module
from zeropod.launch.flags import Flags
from zeropod.launch.start import NEW_PROTOCOL, OLD_PROTOCOL, SOCKET_FD, group, main, protocol, socket_path

SANDBOX = "io.kubernetes.cri.sandbox-id"
GROUP = "io.containerd.runc.v2.group"
ADDRESS = "/run/containerd/containerd.sock"
FLAGS = Flags(namespace="k8s.io", address=ADDRESS, id="web", arguments=("-id", "web", "start"))

SHIM = f"""
import json, os, socket, sys
def same(fd):
    try:
        return os.path.sameopenfile(fd, {SOCKET_FD})
    except OSError:
        return False
listener = socket.socket(fileno={SOCKET_FD})
connection, _ = listener.accept()
report = dict(
    arguments=sys.argv[1:],
    pid=os.getpid(),
    group=os.getpgid(0),
    streams=[os.readlink(f"/proc/self/fd/{{fd}}") for fd in range(3)],
    listeners=[fd for fd in range(3, 100) if same(fd)],
    oom=int(open("/proc/self/oom_score_adj").read()),
)
connection.sendall(json.dumps(report).encode())
"""


@pytest.fixture(autouse=True)
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The bundle is the present directory; no test listens or writes in a place of the real node."""
    monkeypatch.setattr(module, "PROTOCOLS", str(tmp_path / "p"))
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text("{}")
    # What the path of a socket has room for is less than pytest's directories take.
    with tempfile.TemporaryDirectory() as directory:
        monkeypatch.setattr(module, "SOCKETS", f"{directory}/s")
        yield


@pytest.fixture
def spawned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sockets that shims were started with, which are no processes here."""
    names: list[str] = []

    def note(listener: int, flags: Flags) -> None:
        with socket.socket(fileno=os.dup(listener)) as bound:
            names.append(bound.getsockname())

    monkeypatch.setattr(module, "_serve", note)
    return names


def start(flags: Flags) -> str:
    return module.start(flags, lambda listener: module._serve(listener, flags))


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, "web"),
        ({SANDBOX: "pod"}, "pod"),
        ({GROUP: "mine", SANDBOX: "pod"}, "mine"),
        ({GROUP: "", SANDBOX: "pod"}, "pod"),
    ],
)
def test_a_shim_is_shared_by_what_has_the_same_group(annotations: dict[str, str], expected: str) -> None:
    Path("config.json").write_text(json.dumps({"annotations": annotations}))
    assert group("web") == expected


def test_a_bundle_without_annotations_has_a_shim_of_its_own() -> None:
    Path("config.json").write_text('{"annotations": null}')
    assert group("web") == "web"


def test_the_longest_names_have_room_in_a_socket_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SOCKETS", "/run/containerd/s")
    flags = Flags(namespace="n" * 76, address="/run/k3s/containerd/containerd.sock" * 9, id="i" * 76)
    assert len(socket_path(flags, "g" * 76)) < 108


def test_no_two_shims_share_a_socket() -> None:
    namespaces = [Flags(namespace=name, address=address) for name in ("a", "b") for address in ("x", "y")]
    assert len({socket_path(flags, group) for flags in namespaces for group in ("1", "2")}) == 8


def test_the_address_is_printed_and_written_into_the_bundle(spawned: list[str]) -> None:
    address = start(FLAGS)
    assert spawned == [address.removeprefix("unix://")]
    assert Path("address").read_text() == address


def test_nobody_else_may_connect(spawned: list[str]) -> None:
    start(FLAGS)
    [path] = spawned
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_the_umask_is_put_back(spawned: list[str]) -> None:
    before = os.umask(0o022)
    try:
        start(FLAGS)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_shim_that_listens_is_joined(spawned: list[str]) -> None:
    os.makedirs(module.SOCKETS)
    path = socket_path(FLAGS, "web")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        assert start(FLAGS) == f"unix://{path}"
    assert spawned == []


def test_the_containers_of_a_pod_get_the_address_of_one_shim(spawned: list[str]) -> None:
    Path("config.json").write_text(json.dumps({"annotations": {SANDBOX: "pod"}}))
    first = start(FLAGS)
    os.unlink(spawned[0])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(spawned[0])
        listener.listen(1)
        assert start(Flags(namespace="k8s.io", address=ADDRESS, id="sidecar")) == first
    assert len(spawned) == 1


def test_the_socket_of_a_shim_that_was_killed_is_replaced(spawned: list[str]) -> None:
    os.makedirs(module.SOCKETS)
    path = socket_path(FLAGS, "web")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    start(FLAGS)
    assert spawned == [path]


def test_a_shim_that_cannot_be_started_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(module, "_spawn", fail)
    with pytest.raises(OSError, match="no more processes"):
        start(FLAGS)
    assert os.listdir(module.SOCKETS) == []
    assert not Path("address").exists()


@pytest.mark.parametrize("config", [None, "{"])
def test_a_bundle_that_cannot_be_read_is_said_on_stderr(
    capsys: pytest.CaptureFixture[str], spawned: list[str], config: str | None
) -> None:
    Path("config.json").unlink()
    if config is not None:
        Path("config.json").write_text(config)
    assert main(FLAGS) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("containerd-shim-zeropod-v2: cannot start the shim of web: ")


def test_the_answer_is_what_containerd_reads(capsys: pytest.CaptureFixture[str], spawned: list[str]) -> None:
    assert main(FLAGS) == 0
    address = f"unix://{spawned[0]}"
    assert json.loads(capsys.readouterr().out) == {"version": OLD_PROTOCOL, "address": address, "protocol": "ttrpc"}


def test_the_shim_gets_the_socket_and_the_same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", SHIM, *FLAGS.arguments])
    address = start(FLAGS)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(address.removeprefix("unix://"))
        report = json.loads(client.makefile().read())
    assert os.waitpid(report["pid"], 0) == (report["pid"], 0)
    assert report["arguments"] == ["-id", "web", "serve"]
    assert report["group"] == report["pid"]
    assert report["streams"] == ["/dev/null"] * 3
    assert report["listeners"] == [SOCKET_FD]
    assert report["oom"] == min(int(Path(f"/proc/{os.getppid()}/oom_score_adj").read_text()) + 1, 1000)


# What containerd takes


def containerd(says: str, status: int = 0) -> str:
    path = Path("containerd").absolute()
    path.write_text(f"#!/bin/sh\necho x >>{path}.calls\necho '{says}'\nexit {status}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("containerd github.com/containerd/containerd/v2 v2.1.9 0e1a1cb1b3", NEW_PROTOCOL),
        ("containerd github.com/containerd/containerd/v2 2.0.0~rc1 ", NEW_PROTOCOL),
        ("containerd github.com/containerd/containerd v1.7.28 b98a3aace6", OLD_PROTOCOL),
        ("containerd github.com/k3s-io/containerd v1.7.23-k3s2", OLD_PROTOCOL),
        ("containerd github.com/containerd/containerd/v2 v10.0.1", NEW_PROTOCOL),
        ("", OLD_PROTOCOL),
        ("something else", OLD_PROTOCOL),
    ],
)
def test_the_protocol_is_the_newest_that_this_containerd_takes(says: str, version: int) -> None:
    assert protocol(containerd(says)) == version


def test_a_containerd_is_asked_once() -> None:
    path = containerd("containerd github.com/containerd/containerd/v2 v2.1.9")
    assert [protocol(path) for _ in range(3)] == [NEW_PROTOCOL] * 3
    assert Path(path + ".calls").read_text() == "x\n"


def test_another_containerd_in_the_same_place_is_asked_again() -> None:
    assert protocol(containerd("containerd v2.1.9")) == NEW_PROTOCOL
    os.unlink("containerd")
    assert protocol(containerd("containerd of old, v1.7.28")) == OLD_PROTOCOL


def test_a_note_that_makes_no_sense_is_written_anew() -> None:
    path = containerd("containerd v2.1.9")
    protocol(path)
    [note] = Path(module.PROTOCOLS).iterdir()
    note.write_text("")
    assert protocol(path) == NEW_PROTOCOL
    assert note.read_text() == str(NEW_PROTOCOL)


@pytest.mark.parametrize("path", ["", "/nonexistent/containerd"])
def test_a_containerd_that_cannot_be_found_gets_the_old_protocol(path: str) -> None:
    assert protocol(path) == OLD_PROTOCOL


def test_a_killed_containerd_counts_as_one_that_says_nothing() -> None:
    path = Path(containerd(""))
    path.write_text(f"#!/bin/sh\nkill -{signal.SIGKILL} $$\n")
    assert protocol(str(path)) == OLD_PROTOCOL
