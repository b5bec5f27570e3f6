"""A node's file system that is mounted somewhere below ours: its links are its own."""

import os
from pathlib import Path

import pytest

from zeropod.installer.changes import File, Link
from zeropod.installer.errors import InstallError
from zeropod.installer.root import Root


@pytest.fixture
def host(tmp_path: Path) -> Path:
    (tmp_path / "host/etc/real").mkdir(parents=True)
    (tmp_path / "host/etc/real/config.toml").write_text("version = 2\n")
    (tmp_path / "host/etc/containerd").symlink_to("/etc/real")
    (tmp_path / "host/etc/relative").symlink_to("../../../../../etc/real")
    (tmp_path / "host/etc/round").symlink_to("/etc/round")
    return tmp_path / "host"


@pytest.mark.parametrize(
    "path", ["/etc/containerd/config.toml", "/etc/relative/config.toml", "/etc/real/../real/config.toml"]
)
def test_no_link_leads_out_of_it(host: Path, path: str) -> None:
    root = Root(str(host))
    assert root.resolve(path) == "/etc/real/config.toml"
    assert root.text(path) == "version = 2\n"
    assert root.outside(path) == f"{host}/etc/real/config.toml"


def test_the_last_link_is_what_is_looked_at(host: Path) -> None:
    root = Root(str(host))
    assert root.look("/etc/containerd") == Link("/etc/real")
    assert root.look("/etc/containerd/config.toml") == File(b"version = 2\n", 0o644)
    assert root.look("/etc/containerd/none") is None


def test_links_that_go_round_are_an_error(host: Path) -> None:
    with pytest.raises(InstallError, match="too many symbolic links"):
        Root(str(host)).resolve("/etc/round/x")


def test_what_is_no_file_is_in_the_way(host: Path) -> None:
    with pytest.raises(InstallError, match="/etc/real is not a file"):
        Root(str(host)).look("/etc/real")


def test_text_that_is_none_is_refused(host: Path) -> None:
    (host / "etc/real/config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InstallError, match="not UTF-8"):
        Root(str(host)).text("/etc/containerd/config.toml")


def test_globs_are_the_nodes_paths(host: Path) -> None:
    (host / "etc/[odd]").mkdir()
    assert Root(str(host)).glob("/etc/real/*.toml") == ["/etc/real/config.toml"]


def test_a_program_that_is_missing_or_hangs_is_an_error(host: Path) -> None:
    root = Root()
    with pytest.raises(InstallError, match="there is no no-such-program"):
        root.run(["no-such-program"], 5)
    with pytest.raises(InstallError, match="did not end within"):
        root.run(["sleep", "1000"], 0.01)
    assert root.succeeds(["no-such-program"]) is None
    assert root.succeeds(["false"]) is None
    assert root.succeeds(["echo", "yes"]) == "yes\n"


def test_links_to_directories_count_as_files_below_one(host: Path) -> None:
    assert Root(str(host)).walk("/etc") == ["/etc/containerd", "/etc/real/config.toml", "/etc/relative", "/etc/round"]
    assert Root(str(host)).walk("/nowhere") == []
    assert os.path.lexists(host / "etc/containerd")
