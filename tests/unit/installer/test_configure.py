"""Each distribution's containerd gets the handler where that containerd looks for it."""

import fnmatch
import tomllib
from typing import Any

import pytest

from zeropod.installer import edits
from zeropod.installer.configure import BASE, Configuration, Node, configure, is_ours_alone, taken_back
from zeropod.installer.distributions import DISTRIBUTIONS, Distribution, detect
from zeropod.installer.errors import InstallError

SHIM = "/opt/zeropod/bin/containerd-shim-zeropod-v2"
OLD, NEW = "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"
BY_NAME = {known.name: known for known in DISTRIBUTIONS}
CONTAINERD = BY_NAME["containerd"]
RUNC = {
    "runtimeType": "io.containerd.runc.v2",
    "baseRuntimeSpec": "/etc/containerd/cri-base.json",
    "options": {"SystemdCgroup": True, "BinaryName": "", "CriuPath": "/usr/sbin/criu"},
}


def made(
    files: dict[str, str], major: int, distribution: Distribution = CONTAINERD, ordinary: dict[str, Any] | None = None
) -> Configuration:
    node = Node(
        read=files.get,
        glob=lambda pattern: sorted(path for path in files if fnmatch.fnmatch(path, pattern)),
        config=distribution.config,
        major=major,
        ordinary=ordinary,
    )
    return configure(distribution, node, SHIM)


def runtime(text: str, plugin: str) -> dict[str, Any]:
    found = tomllib.loads(text)["plugins"][plugin]["containerd"]["runtimes"]["zeropod"]
    assert isinstance(found, dict)
    return found


def test_containerd_2_gets_a_file_of_our_own_in_a_directory_that_it_imports() -> None:
    text = 'version = 3\nimports = ["/etc/containerd/conf.d/*.toml"]\n'
    configuration = made({CONTAINERD.config: text}, 2)
    assert configuration.edited == {}
    assert runtime(configuration.own["/etc/containerd/conf.d/zeropod.toml"], NEW) == {
        "runtime_type": "io.containerd.runc.v2",
        "runtime_path": SHIM,
        "pod_annotations": ["zeropod.ctrox.dev/*"],
    }


@pytest.mark.parametrize("text", ["version = 3\n", 'version = 3\nimports = [\n  "/etc/a.toml",\n]\n', None, ""])
def test_containerd_2_is_told_to_import_it_where_it_does_not(text: str | None) -> None:
    configuration = made({} if text is None else {CONTAINERD.config: text}, 2)
    drop_in = "/etc/containerd/conf.d/zeropod.toml"
    assert drop_in in edits.imports(tomllib.loads(configuration.edited[CONTAINERD.config]))
    assert tomllib.loads(configuration.own[drop_in])["version"] == 3
    if text:
        assert taken_back(configuration.edited[CONTAINERD.config], configuration.drop_in) == text


def test_a_configuration_of_version_2_gets_a_file_of_version_2() -> None:
    configuration = made({CONTAINERD.config: "version = 2\n"}, 2)
    (own,) = configuration.own.values()
    assert runtime(own, OLD)["runtime_path"] == SHIM


def test_containerd_1_gets_the_table_in_place() -> None:
    text = f'version = 2\n[plugins."{OLD}"]\n  sandbox_image = "pause" # pinned\n'
    configuration = made({CONTAINERD.config: text}, 1)
    extended = configuration.edited[CONTAINERD.config]
    assert (configuration.own, extended.startswith(text)) == ({}, True)
    assert runtime(extended, OLD)["runtime_path"] == SHIM
    assert taken_back(extended, configuration.drop_in) == text


def test_containerd_1_gets_it_in_the_file_whose_section_it_takes() -> None:
    imported = f'[plugins."{OLD}"]\n  sandbox_image = "pause"\n'
    files = {
        CONTAINERD.config: 'version = 2\nimports = ["conf.d/*.toml"]\n',
        "/etc/containerd/conf.d/cri.toml": imported,
        "/etc/containerd/conf.d/debug.toml": '[debug]\nlevel = "info"\n',
    }
    (path,) = made(files, 1).edited
    assert path == "/etc/containerd/conf.d/cri.toml"


@pytest.mark.parametrize("major", [1, 2])
def test_what_runc_is_told_is_told_ours(major: int) -> None:
    configuration = made({CONTAINERD.config: f"version = {major + 1}\n"}, major, ordinary=RUNC)
    (text,) = (configuration.own or configuration.edited).values()
    found = runtime(text, NEW if major == 2 else OLD)
    assert found["options"] == {"SystemdCgroup": True}
    assert found["base_runtime_spec"] == "/etc/containerd/cri-base.json"


def test_runcs_table_is_read_where_containerd_cannot_be_asked() -> None:
    text = (
        f'version = 2\n[plugins."{OLD}".containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
        f'[plugins."{OLD}".containerd.runtimes.runc.options]\nSystemdCgroup = true\n'
    )
    found = runtime(made({CONTAINERD.config: text}, 1).edited[CONTAINERD.config], OLD)
    assert found["options"] == {"SystemdCgroup": True}


def test_the_options_of_another_runtime_are_not_passed_on() -> None:
    other = {"runtimeType": "io.containerd.kata.v2", "options": {"ConfigPath": "/etc/kata.toml"}}
    configuration = made({CONTAINERD.config: "version = 2\n"}, 1, ordinary=other)
    assert "options" not in runtime(configuration.edited[CONTAINERD.config], OLD)


@pytest.mark.parametrize("major", [1, 2])
def test_the_second_time_is_as_the_first(major: int) -> None:
    files = {CONTAINERD.config: f"version = {major + 1}\n# kept\n"}
    first = made(files, major, ordinary=RUNC)
    second = made({**files, **first.own, **first.edited}, major, ordinary=RUNC)
    assert (second.own, second.edited) == (first.own, first.edited)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[plugins.cri]\nsandbox_image = "x"\n', "version 1.*config migrate"),
        ('version = 2\ndisabled_plugins = ["cri"]\n', "disables containerd's CRI plugin"),
        (
            f'version = 2\n[plugins."{OLD}".containerd.runtimes.zeropod]\nruntime_type = "x"\n',
            "that zeropod did not put there",
        ),
        (
            f'version = 3\n[plugins."{NEW}".containerd.runtimes.zeropod]\nruntime_type = "x"\n',
            "that zeropod did not put there",
        ),
        ("version = \n", "not valid TOML"),
        (f'version = 2\nplugins = {{ "{OLD}" = {{ containerd = {{}} }} }}\n', "not valid TOML"),
    ],
)
def test_what_cannot_be_extended_is_refused_with_the_remedy(text: str, why: str) -> None:
    with pytest.raises(InstallError, match=why):
        made({CONTAINERD.config: text}, 1)


@pytest.mark.parametrize("name", ["k3s", "rke2"])
class TestTemplates:
    def test_a_node_of_version_2_gets_the_base_and_ours(self, name: str) -> None:
        known = BY_NAME[name]
        ((path, text),) = made({known.config: "version = 2\n"}, 1, known).edited.items()
        assert path == f"{known.config}.tmpl"
        assert text.startswith(BASE)
        assert f'[plugins."{OLD}".containerd.runtimes.zeropod.options]\n  SystemdCgroup = {{{{ .Systemd' in text
        assert is_ours_alone(taken_back(text, None))

    def test_a_node_of_version_3_gets_the_template_of_that_version(self, name: str) -> None:
        known = BY_NAME[name]
        ((path, text),) = made({known.config: "version = 3\n"}, 2, known).edited.items()
        assert path == known.config.replace("config.toml", "config-v3.toml.tmpl")
        assert f'[plugins."{NEW}".containerd.runtimes.zeropod]' in text

    def test_a_users_own_template_is_added_to(self, name: str) -> None:
        known = BY_NAME[name]
        own = '{{ template "base" . }}\n[debug]\n{{ if .X }}level = "info"{{ end }}\n'
        files = {known.config: "version = 3\n", f"{known.config}.tmpl": own}
        ((path, text),) = made(files, 2, known).edited.items()
        assert path == f"{known.config}.tmpl"
        assert text.startswith(own)
        assert f'[plugins."{OLD}"' in text
        assert taken_back(text, None) == own

    def test_the_second_time_is_as_the_first(self, name: str) -> None:
        known = BY_NAME[name]
        files = {known.config: "version = 3\n"}
        first = made(files, 2, known).edited
        assert made({**files, **first}, 2, known).edited == first


def test_k0s_gets_a_drop_in_of_the_version_that_it_renders() -> None:
    known = BY_NAME["k0s"]
    assert runtime(made({}, 1, known).own[known.config], OLD)
    rendered = {"/run/k0s/containerd-cri.toml": "version = 3\n"}
    assert runtime(made(rendered, 2, known).own[known.config], NEW)


def test_microk8s_gets_it_in_its_template() -> None:
    known = BY_NAME["microk8s"]
    text = f'version = 2\n[plugins."{OLD}".containerd]\n  snapshotter = "${{SNAPSHOTTER}}"\n'
    extended = made({known.config: text}, 2, known, RUNC).edited[known.config]
    assert extended.startswith(text)
    assert runtime(extended, OLD)["options"] == {"SystemdCgroup": True}


class TestDetection:
    @pytest.mark.parametrize("known", DISTRIBUTIONS, ids=lambda known: known.name)
    def test_a_node_is_known_by_its_marker(self, known: Distribution) -> None:
        assert detect(lambda path: path in known.markers, None) == known
        assert detect(lambda path: False, known.name) == known

    def test_what_runs_comes_before_what_has_left_its_directories(self) -> None:
        k3s, microk8s = BY_NAME["k3s"], BY_NAME["microk8s"]
        assert detect(lambda path: path in (*k3s.markers, *microk8s.markers, k3s.socket)) == k3s

    def test_two_at_once_are_the_users_choice(self) -> None:
        with pytest.raises(InstallError, match="--distribution"):
            detect(lambda path: True)
