"""What is learnt about a node from what its programs say."""

import json
from pathlib import Path

import pytest

from zeropod.installer import containerd, facts
from zeropod.installer.changes import File
from zeropod.installer.errors import InstallError
from zeropod.installer.record import Kept, Record, read
from zeropod.installer.root import Root


@pytest.mark.parametrize(
    ("said", "major"),
    [
        ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1", 1),
        ("containerd containerd.io v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", 2),
        ("2.1.9+unknown", 2),
        ("v1.7.2-k3s1", 1),
        ("", 0),
        ("nonsense", 0),
    ],
)
def test_containerds_major_version(said: str, major: int) -> None:
    assert containerd.major(said) == major


@pytest.mark.parametrize(
    ("line", "config"),
    [
        (["containerd"], None),
        (["/usr/bin/containerd", "--config", "/etc/x.toml"], "/etc/x.toml"),
        (["containerd", "-c", "/etc/x.toml", "--log-level=debug"], "/etc/x.toml"),
        (["containerd", "--config=/etc/x.toml"], "/etc/x.toml"),
        (["containerd", "--config"], None),
    ],
)
def test_the_configuration_that_a_running_containerd_reads(line: list[str], config: str | None) -> None:
    assert facts.config_of(line) == config


def test_handlers_are_read_from_cris_status() -> None:
    runtimes = {"runc": {"runtimeType": "io.containerd.runc.v2"}, "zeropod": {}}
    config = json.dumps({"containerd": {"runtimes": runtimes, "defaultRuntimeName": "runc"}})
    found = containerd.parse("v2.1.9", config)
    assert (set(found.handlers), found.ordinary, containerd.major(found.version)) == (
        {"runc", "zeropod"},
        runtimes["runc"],
        2,
    )


@pytest.mark.parametrize("config", ["", "[]", "null", "{}", '{"containerd": null}'])
def test_a_status_without_handlers_has_none(config: str) -> None:
    assert containerd.parse("v2.1.9", config).handlers == {}


class Says(Root):
    """A node whose programs print this."""

    def __init__(self, text: str | None) -> None:
        super().__init__()
        self._text = text

    def succeeds(self, command: object, timeout: float = 30.0) -> str | None:
        return self._text


def test_a_criu_that_is_new_enough_is_taken() -> None:
    assert facts.demand_criu(Says("Version: 4.2.1\n"), "criu") == "4.2.1"


@pytest.mark.parametrize("said", ["Version: 3.17.1\n", "Version: 4.1.1\n", "Version: gitless\n", None])
def test_one_that_is_not_is_refused_with_the_remedy(said: str | None) -> None:
    with pytest.raises(InstallError, match=r"4\.2"):
        facts.demand_criu(Says(said), "criu")


def test_a_record_is_read_as_it_was_written() -> None:
    kept = Kept("abc", edited=True, existed=True, mode=0o644, uid=1, gid=2, mtime_ns=3)
    record = Record("1.0", "k3s", "/c", "/s", "/d", {"/etc/x": kept}, ("/etc/containerd/conf.d",), ("bin/zeropod",))
    assert read(record.entry(), "it") == record
    assert read(None, "it") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b'{"files": 1, "directories": []}', b'{"files": {}, "directories": [], "inner": [], "x": 1}'],
)
def test_a_damaged_record_is_named(content: bytes) -> None:
    with pytest.raises(InstallError, match=r"/opt/zeropod/etc/installed\.json is damaged"):
        read(File(content), "/opt/zeropod/etc/installed.json")


def test_a_kernel_that_is_too_old_is_refused_before_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.15.0-1-generic")
    with pytest.raises(InstallError, match=r"this node has Linux 5\.15\.0-1-generic, and 6\.1 is the oldest"):
        facts.gather(Root(str(tmp_path)), distribution=None, config=None, socket=None, command=None)
