"""What is read from a bundle's config.json, and the changes that it gets."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.runtime.errors import SpecError
from zeropod.runtime.spec import CONTAINER_TYPE, Spec

LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.lists(st.integers(), max_size=2))
KEYS = st.sampled_from("abc")
OBJECTS = st.dictionaries(KEYS, st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner), max_leaves=5))


def spec(path: Path = Path("/b/config.json"), **content: Any) -> Spec:
    return Spec(path, content)


def limits(content: Spec) -> Any:
    return content.content["linux"]["resources"]


def test_a_bundle_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"annotations": {"a": "1"}}')
    found = Spec.read(tmp_path)
    assert (found.path, found.annotations) == (tmp_path / "config.json", {"a": "1"})


@pytest.mark.parametrize("text", [None, "", "{", "[]", "null", '"text"', b"\xff\xfe"])
def test_a_bundle_that_makes_no_sense_is_named(tmp_path: Path, text: str | bytes | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SpecError, match=str(tmp_path / "config.json")):
        Spec.read(tmp_path)


@pytest.mark.parametrize("content", [{}, {"annotations": None, "linux": None}, {"linux": {"namespaces": None}}])
def test_what_is_left_out_is_empty(content: dict[str, Any]) -> None:
    found = spec(**content)
    assert (found.annotations, found.namespaces) == ({}, {})
    assert not found.is_sandbox


def test_namespaces_are_listed_with_the_path_they_join() -> None:
    namespaces = [{"type": "pid"}, {"type": "network", "path": "/run/netns/pod"}]
    assert spec(linux={"namespaces": namespaces}).namespaces == {"pid": "", "network": "/run/netns/pod"}


@pytest.mark.parametrize(
    ("namespaces", "shared"),
    [([{"type": "pid"}], False), ([{"type": "pid", "path": "/proc/1/ns/pid"}], True), ([{"type": "mount"}], True)],
)
def test_pids_are_shared_unless_there_is_a_new_namespace_for_them(
    namespaces: list[dict[str, str]], shared: bool
) -> None:
    assert spec(linux={"namespaces": namespaces}).shares_pids is shared


def test_a_sandbox_says_so() -> None:
    assert spec(annotations={CONTAINER_TYPE: "sandbox"}).is_sandbox
    assert not spec(annotations={CONTAINER_TYPE: "container"}).is_sandbox


def test_another_network_replaces_the_first_and_nothing_else() -> None:
    before = spec(process={"args": ["x"]}, linux={"namespaces": [{"type": "network"}, {"type": "pid"}], "sysctl": {}})
    after = before.with_network("/run/zeropod/netns/web")
    assert after.namespaces == {"network": "/run/zeropod/netns/web", "pid": ""}
    assert after.content["process"] == {"args": ["x"]}
    assert after.content["linux"]["sysctl"] == {}
    assert before.namespaces["network"] == ""


def test_an_annotation_is_added_or_replaced() -> None:
    before = spec(annotations={"a": "1", "b": "2"})
    assert before.with_annotation("b", "3").annotations == {"a": "1", "b": "3"}
    assert spec().with_annotation("a", "1").annotations == {"a": "1"}
    assert before.annotations == {"a": "1", "b": "2"}


def test_new_limits_change_only_what_they_name() -> None:
    before = spec(linux={"resources": {"memory": {"limit": 1, "swap": 2}, "devices": [{"allow": False}]}})
    after = before.with_resources({"memory": {"limit": 5}, "cpu": {"shares": 10}})
    assert limits(after) == {
        "memory": {"limit": 5, "swap": 2},
        "devices": [{"allow": False}],
        "cpu": {"shares": 10},
    }
    assert limits(before)["memory"] == {"limit": 1, "swap": 2}


def test_a_container_without_limits_gets_its_first() -> None:
    for linux in ({}, {"resources": None}):
        assert limits(spec(linux=linux).with_resources({"pids": {"limit": 1}})) == {"pids": {"limit": 1}}


def test_lists_are_replaced_as_a_whole() -> None:
    before = spec(linux={"resources": {"hugepageLimits": [{"pageSize": "2MB"}, {"pageSize": "1GB"}]}})
    after = before.with_resources({"hugepageLimits": [{"pageSize": "64KB"}]})
    assert limits(after) == {"hugepageLimits": [{"pageSize": "64KB"}]}


@given(OBJECTS, OBJECTS)
def test_the_same_limits_twice_are_the_same_as_once(before: dict[str, Any], update: dict[str, Any]) -> None:
    once = spec(linux={"resources": before}).with_resources(update)
    assert limits(once.with_resources(update)) == limits(once)


@given(OBJECTS, OBJECTS)
def test_every_limit_that_an_update_names_holds_afterwards(before: dict[str, Any], update: dict[str, Any]) -> None:
    def holds(found: Any, wanted: Any) -> bool:
        if isinstance(wanted, dict) and isinstance(found, dict):
            return all(key in found and holds(found[key], value) for key, value in wanted.items())
        return bool(found == wanted)

    assert holds(limits(spec(linux={"resources": before}).with_resources(update)), update)


def test_a_change_is_in_the_bundle_once_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    Spec.read(tmp_path).with_annotation("a", "\u00e9").write()
    assert Spec.read(tmp_path).annotations == {"a": "\u00e9"}
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"annotations": {"a": "old"}}')
    with (tmp_path / "config.json").open() as reader:
        Spec.read(tmp_path).with_annotation("a", "new").write()
        assert json.load(reader)["annotations"] == {"a": "old"}


def test_what_a_container_is_told_is_no_business_of_others(tmp_path: Path) -> None:
    spec(tmp_path / "config.json").write()
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = Spec.read(tmp_path)
    with pytest.raises(TypeError):
        Spec(found.path, {"a": object()}).write()
    assert (tmp_path / "config.json").read_text() == "{}"


def test_bind_mounts_are_told_by_their_type_or_their_options(tmp_path: Path) -> None:
    mounts = [
        {"destination": "/dev", "type": "tmpfs", "options": ["nosuid"]},
        {"destination": "/etc/hosts", "type": "bind", "source": "/a"},
        {"destination": "/dev/shm", "type": "none", "options": ["rbind", "ro"]},
        {"destination": "/proc", "type": "proc"},
    ]
    assert Spec(tmp_path, {"mounts": mounts}).bind_mounts == {"/etc/hosts", "/dev/shm"}
    assert Spec(tmp_path, {}).bind_mounts == frozenset()
