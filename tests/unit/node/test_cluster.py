"""How a cluster is asked for, and what of Kubernetes is built for it."""

import re
from pathlib import Path

import pytest
from tests.node.__main__ import chosen
from tests.node.cache import NodeError
from tests.node.kubernetes import COMPONENTS, OLDEST, SOURCE, version_of


@pytest.mark.parametrize(
    ("arguments", "nodes", "command"),
    [
        (["--cluster"], 1, ["bash"]),
        (["--cluster", "2"], 2, ["bash"]),
        (["--cluster", "kubectl", "get", "nodes"], 1, ["kubectl", "get", "nodes"]),
        (["--cluster", "2", "kubectl", "-A"], 2, ["kubectl", "-A"]),
        (["--applications", "--cluster", "true"], 1, ["true"]),
        (["--oldest", "--cluster", "--suite", "true"], 1, ["true"]),
        (["--cluster", "2", "--suite", "true"], 2, ["true"]),
        (["true", "--cluster"], 0, ["true", "--cluster"]),
        (["true"], 0, ["true"]),
    ],
)
def test_the_number_of_nodes_may_be_left_out(arguments: list[str], nodes: int, command: list[str]) -> None:
    options, rest = chosen(arguments)
    assert (options.cluster, rest) == (nodes, command)


@pytest.mark.parametrize("source", [SOURCE, OLDEST])
def test_one_version_of_kubernetes_in_all_its_modules(source: Path) -> None:
    module = (source / "go.mod").read_text()
    version = version_of(source)
    replaced = set(re.findall(r"=> k8s\.io/\S+ v0\.(\S+)$", module, re.MULTILINE))
    assert replaced == {version.removeprefix("v1.")}


def test_a_module_without_kubernetes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.test/none\n")
    with pytest.raises(NodeError):
        version_of(tmp_path)


def test_the_program_goes_by_every_name_that_is_linked_to_it() -> None:
    source = (SOURCE / "main.go").read_text()
    names = re.findall(r'^\t"([a-z-]+)": |name == "([a-z]+)"', source, re.MULTILINE)
    assert sorted("".join(name) for name in names) == sorted(COMPONENTS)
