"""Installing onto a directory that looks like a node, and uninstalling: it is as it was, whatever came between."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from zeropod.installer import record, uninstall
from zeropod.installer.containerd import Handlers
from zeropod.installer.distributions import DISTRIBUTIONS, Distribution
from zeropod.installer.errors import InstallError
from zeropod.installer.facts import Facts
from zeropod.installer.install import install
from zeropod.installer.planning import Source
from zeropod.installer.root import Root
from zeropod.installer.service import Service

MAIN = "version = 2\n# mine\n\n[debug]\n  level = 'info'\n"
BY_NAME = {known.name: known for known in DISTRIBUTIONS}
RESTART = Service(("restart",), "containerd")
NOBODY = Service(None, "containerd")


class Node(Root):
    """Its programs all succeed, unless they are named in `failing`."""

    def __init__(self, top: Path) -> None:
        super().__init__(str(top))
        self.ran: list[str] = []
        self.failing: set[str] = set()
        self.hanging: set[str] = set()

    def run(self, command: Sequence[str], timeout: float) -> "subprocess.CompletedProcess[str]":
        self.ran.append(os.path.basename(command[0]))
        if command[-1] in self.hanging:
            raise InstallError(f"{command[0]} did not end within {timeout:g} s")
        status = 1 if os.path.basename(command[0]) in self.failing else 0
        return subprocess.CompletedProcess(list(command), status, "Version: 4.2.1, not GNU tar\n")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = tmp_path / "bundle"
    for name, content in {
        "bin/zeropod.pyz": "#!/bin/sh\n",
        "lib/programs/criu": "criu",
        "lib/programs/python3": "python",
        "lib/ld.so": "loader",
        "lib/python3.14/os.py": "",
        "licenses/criu": "GPL",
        "bundle.json": json.dumps({"architecture": platform.machine(), "programs": ["criu", "python3"]}),
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


@pytest.fixture(params=DISTRIBUTIONS, ids=lambda known: known.name)
def known(request: pytest.FixtureRequest) -> Distribution:
    assert isinstance(request.param, Distribution)
    return request.param


def made(tmp_path: Path, known: Distribution) -> Node:
    node = Node(tmp_path / "node")
    config = Path(node.outside(known.config))
    config.parent.mkdir(parents=True)
    if known.name != "k0s":
        config.write_text(MAIN)
        config.chmod(0o640)
        os.utime(config, ns=(5, 1_000_000_007))
    Path(node.outside("/usr/local/bin")).mkdir(parents=True)
    Path(node.outside("/home/kubernetes/bin")).mkdir(parents=True, exist_ok=True)
    return node


def found(known: Distribution, service: Service = NOBODY) -> Facts:
    runc = {"runtimeType": "io.containerd.runc.v2", "options": {"SystemdCgroup": True}}
    # The handler is there: what is not, would be waited for.
    live = Handlers("1.7.24", {"runc": runc, "zeropod": {}}, runc)
    return Facts(known, known.config, known.socket, live, 1, service)


def come(
    node: Node, known: Distribution, bundle: Path, service: Service = NOBODY, config: Path | None = None
) -> list[str]:
    said: list[str] = []
    source = Source(str(bundle / "bin/zeropod.pyz"), str(bundle), node_config=str(config) if config else None)
    install(node, found(known, service), known.install_root, source, said.append, links=known.links, dry=False)
    return said


def go(node: Node, known: Distribution) -> list[str]:
    said: list[str] = []
    place = f"{known.install_root}/{record.PLACE}"
    remembered = record.read(node.look(place), place)
    assert remembered is not None
    uninstall.uninstall(node, remembered, known.install_root, NOBODY, said.append, force=False, dry=False)
    return said


def everything(node: Node) -> dict[str, tuple[object, ...]]:
    entries: dict[str, tuple[object, ...]] = {}
    for parent, directories, names in os.walk(node.top):
        for path in (os.path.join(parent, name) for name in (*directories, *names)):
            status = os.lstat(path)
            date = status.st_mtime_ns if os.path.isfile(path) else None
            entries[path] = (status.st_mode, date, node.look(path.removeprefix(node.top)) if date else None)
    return entries


def test_a_node_is_what_it_was(tmp_path: Path, known: Distribution, bundle: Path) -> None:
    node = made(tmp_path, known)
    before = everything(node)
    come(node, known, bundle)
    installed = everything(node)
    assert node.look(f"{known.install_root}/bin/containerd-shim-zeropod-v2") is not None
    assert "nothing to do" in come(node, known, bundle)[-1]
    assert everything(node) == installed
    go(node, known)
    assert everything(node) == before


def test_a_configuration_is_brought_changed_and_taken_away(tmp_path: Path, known: Distribution, bundle: Path) -> None:
    node, config = made(tmp_path, known), tmp_path / "given.toml"
    before = everything(node)
    place = f"{known.install_root}/etc/zeropod.toml"
    come(node, known, bundle)
    for text in ('[defaults]\nstandby = "false"\n', "min-free-bytes = 1\n"):
        config.write_text(text)
        said = come(node, known, bundle, config=config)
        assert node.text(place) == text
        assert said[-1] == "containerd's configuration has not changed: nothing was restarted"
    Path(node.outside(place)).write_text("min-free-bytes = 2\n")
    come(node, known, bundle, config=config)
    assert node.text(place) == "min-free-bytes = 1\n", "what the cluster says is what counts"
    assert "nothing to do" in come(node, known, bundle, config=config)[-1]
    come(node, known, bundle)
    assert node.look(place) is None
    come(node, known, bundle, config=config)
    go(node, known)
    assert everything(node) == before


def test_a_configuration_of_a_persons_stays(tmp_path: Path, known: Distribution, bundle: Path) -> None:
    node, config = made(tmp_path, known), tmp_path / "given.toml"
    config.write_text("min-free-bytes = 1\n")
    own = Path(node.outside(f"{known.install_root}/etc/zeropod.toml"))
    own.parent.mkdir(parents=True)
    own.write_text("min-free-bytes = 2\n")
    [note] = [line for line in come(node, known, bundle, config=config) if line.startswith("note: ")]
    assert note.startswith(f"note: {known.install_root}/etc/zeropod.toml is not the installer's and stays as it is")
    go(node, known)
    assert own.read_text() == "min-free-bytes = 2\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[defaults]\nstandby = "perhaps"\n', "standby of the node: 'perhaps' is not true or false"),
        (b"[defaults]\nscaledown = 1\n", "scaledown of the node: this version has no such annotation"),
        (b"min-free-bytes = ", "is not TOML"),
        (b"\xff\xfe", "is not text"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_told_and_it_is_brought_all_the_same(
    tmp_path: Path, bundle: Path, content: bytes, words: str
) -> None:
    known = BY_NAME["containerd"]
    node, config = made(tmp_path, known), tmp_path / "given.toml"
    config.write_bytes(content)
    [note] = [line for line in come(node, known, bundle, config=config) if line.startswith("note: ")]
    assert words in note
    assert node.look(f"{known.install_root}/etc/zeropod.toml") is not None


def test_a_node_that_is_too_slow_to_unpack_is_installed_all_the_same(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    node.hanging = {"unpack"}
    [note] = [line for line in come(node, known, bundle) if line.startswith("note: zeropod could not unpack itself")]
    assert note.endswith("/bin/zeropod did not end within 300 s")
    assert "nothing to do" in come(node, known, bundle)[-1]


def test_a_template_that_was_not_there_is_gone_again(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["k3s"]
    node = made(tmp_path, known)
    come(node, known, bundle)
    assert (node.text(f"{known.config}.tmpl") or "").startswith('{{ template "base" . }}')
    Path(node.outside(f"{known.config}.tmpl")).write_text((node.text(f"{known.config}.tmpl") or "") + "\n# mine\n")
    assert any("has been changed since" in line for line in go(node, known))
    assert node.text(f"{known.config}.tmpl") == '{{ template "base" . }}\n\n# mine\n'


def test_what_somebody_has_changed_meanwhile_stays(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    come(node, known, bundle)
    config = Path(node.outside(known.config))
    config.write_text(config.read_text().replace("'info'", "'warn'") + "# later\n")
    link = Path(node.outside("/usr/local/bin/zeropod", follow=False))
    link.unlink()
    link.symlink_to("/opt/mine")
    Path(node.outside("/opt/zeropod/bin/mine")).write_text("mine")
    come(node, known, bundle)
    go(node, known)
    assert node.text(known.config) == MAIN.replace("'info'", "'warn'") + "# later\n"
    assert os.readlink(link) == "/opt/mine"
    assert node.text("/opt/zeropod/bin/mine") == "mine"
    assert node.walk("/opt/zeropod") == ["/opt/zeropod/bin/mine"]


def test_somebody_elses_link_is_left_alone(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    os.symlink("/opt/mine", node.outside("/usr/local/bin/zeropod"))
    before = everything(node)
    assert any("/usr/local/bin/zeropod is not zeropod's" in line for line in come(node, known, bundle))
    go(node, known)
    assert everything(node) == before


def test_a_new_version_replaces_the_old_one_and_what_it_lacks(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    before = everything(node)
    come(node, known, bundle)
    (bundle / "bin/zeropod.pyz").write_text("#!/bin/sh\n# newer\n")
    (bundle / "licenses/criu").unlink()
    assert "2 files changed" not in "".join(said := come(node, known, bundle))
    assert any("nothing was restarted" in line for line in said)
    assert node.text("/opt/zeropod/bin/zeropod.pyz") == "#!/bin/sh\n# newer\n"
    assert not node.exists("/opt/zeropod/licenses/criu")
    go(node, known)
    assert everything(node) == before


@pytest.mark.parametrize("failing", ["criu", "zeropod", "restart"])
def test_what_does_not_run_here_is_not_installed(tmp_path: Path, bundle: Path, failing: str) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    before = everything(node)
    node.failing = {failing}
    with pytest.raises(InstallError):
        come(node, known, bundle, RESTART)
    assert everything(node) == before
    # With its old configuration, if it may have seen the new one.
    assert node.ran.count("restart") == (2 if failing == "restart" else 0)


def test_a_bundle_for_another_machine_is_refused(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    (bundle / "bundle.json").write_text(json.dumps({"architecture": "vax", "programs": []}))
    with pytest.raises(InstallError, match="is for vax"):
        come(made(tmp_path, known), known, bundle)


def test_a_backup_that_is_lost_stops_the_uninstaller_before_anything(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    node = made(tmp_path, known)
    come(node, known, bundle)
    os.unlink(node.outside(f"/opt/zeropod/{record.BACKUPS}{known.config}"))
    installed = everything(node)
    with pytest.raises(InstallError, match=r"backup of /etc/containerd/config\.toml"):
        go(node, known)
    assert everything(node) == installed


def test_where_nobody_restarts_containerd_it_says_what_to_do(tmp_path: Path, bundle: Path) -> None:
    known = BY_NAME["containerd"]
    said = come(made(tmp_path, known), known, bundle, replace(NOBODY, name="the container engine"))
    assert said[-1] == "NOT IN EFFECT YET: restart the container engine, then run this again to verify"
