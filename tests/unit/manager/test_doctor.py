"""What `zeropod doctor` makes of what it finds; the finding itself is tried on the test node."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zeropod.manager import doctor, looks
from zeropod.manager.checks import CHECKS, Check, Need, carry_out
from zeropod.manager.looks import Missing, configured
from zeropod.runtime.memory import choice
from zeropod.runtime.memory.choice import NodeFacts, SwapDevice


def check(look: Callable[[], str], need: Need = Need.REQUIRED) -> Check:
    return Check("thing", need, look, "nothing works", "Get one.")


def there() -> str:
    return "yes"


def missing() -> str:
    raise Missing("no")


def broken() -> str:
    raise PermissionError(13, "Permission denied", "/proc/x")


@pytest.mark.parametrize(
    ("need", "look", "verdict"),
    [
        (Need.REQUIRED, there, "ok"),
        (Need.REQUIRED, missing, "FAILS"),
        (Need.REQUIRED, broken, "FAILS"),
        (Need.WANTED, missing, "lacks"),
    ],
)
def test_a_look_has_a_verdict_whatever_happens(need: Need, look: Callable[[], str], verdict: str) -> None:
    assert carry_out(check(look, need)).verdict == verdict


def test_what_is_missing_comes_with_what_follows_and_what_to_do() -> None:
    text = doctor.report([carry_out(check(missing)), carry_out(check(there))])
    assert [line.split() for line in text.splitlines()] == [
        ["FAILS", "thing", "no"],
        ["so", "nothing", "works"],
        [">", "Get", "one."],
        ["ok", "thing", "yes"],
    ]


def test_what_takes_several_lines_is_indented() -> None:
    text = doctor.report([carry_out(check(lambda: "swap: no\nstore: yes"))])
    assert text.splitlines() == ["ok     thing  swap: no", "              store: yes"]


@pytest.mark.parametrize("backend", [None, "swap: yes"])
def test_a_node_without_a_place_for_memory_lacks_one(backend: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = NodeFacts("x86_64")
    device = SwapDevice("/dev/zram0", "partition", 4 << 30, 0)
    monkeypatch.setattr(choice, "facts", lambda: replace(bare, swaps=(device,), accounting=True) if backend else bare)
    if backend:
        assert backend in looks.standby_memory()
    else:
        with pytest.raises(Missing, match="keep their memory"):
            looks.standby_memory()


@pytest.mark.parametrize(("need", "status"), [(Need.WANTED, 0), (Need.REQUIRED, 1)])
def test_only_what_is_required_fails_it(
    need: Need, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (check(there), check(missing, need)))
    assert doctor.main(["--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert [entry["ok"] for entry in told] == [True, False]
    assert (told[1]["remedy"], told[0]["remedy"]) == ("Get one.", None)


def test_every_check_has_its_words() -> None:
    assert len({entry.name for entry in CHECKS}) == len(CHECKS)
    assert all(entry.without and entry.remedy.endswith(".") for entry in CHECKS)


def runtimes(plugin: str, **runtime: object) -> dict[str, Any]:
    return {"plugins": {plugin: {"containerd": {"runtimes": {"runc": {}, "zeropod": runtime}}}}}


@pytest.mark.parametrize("plugin", ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"])
def test_the_handler_is_found_in_both_versions_of_the_configuration(plugin: str) -> None:
    given = {"runtime_type": "io.containerd.zeropod.v2", "pod_annotations": ["zeropod.ctrox.dev/*"]}
    assert plugin in configured(runtimes(plugin, **given))


def test_a_handler_of_runcs_type_that_runs_the_shim_is_found_too() -> None:
    given = {"runtime_type": "io.containerd.runc.v2", "pod_annotations": ["zeropod.ctrox.dev/*"]}
    path = "/home/kubernetes/bin/zeropod/bin/containerd-shim-zeropod-v2"
    assert "handler zeropod" in configured(runtimes("p", **given, runtime_path=path))


@pytest.fixture
def containerd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A containerd whose PATH is empty, and whose handler is told."""

    def make(**runtime: object) -> None:
        given = "".join(f"{name} = {json.dumps(value)}\n" for name, value in runtime.items())
        table = f'[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.zeropod]\n{given}'
        program(tmp_path, "containerd", f"cat <<'END'\n{table}END")
        found = looks.Containerd(1, str(tmp_path / "containerd"), [], str(tmp_path / "empty"))
        monkeypatch.setattr(looks, "_containerd", lambda: found)

    return make


def test_a_shim_that_the_configuration_names_need_not_be_on_the_path(
    tmp_path: Path, containerd: Callable[..., None]
) -> None:
    shim = tmp_path / "zeropod/bin/containerd-shim-zeropod-v2"
    shim.parent.mkdir(parents=True)
    containerd(runtime_type="io.containerd.zeropod.v2", runtime_path=str(shim))
    with pytest.raises(Missing, match="which containerd's configuration names, cannot be executed"):
        looks.shim()
    program(shim.parent, shim.name, "exit 0")
    assert looks.shim() == str(shim)


def test_a_shim_that_nothing_names_has_to_be_on_the_path(containerd: Callable[..., None]) -> None:
    containerd(runtime_type="io.containerd.zeropod.v2")
    with pytest.raises(Missing, match="containerd-shim-zeropod-v2 is not on containerd's PATH"):
        looks.shim()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "no runtime"),
        ({"plugins": {"x": "y"}}, "no runtime"),
        (runtimes("p", runtime_type="io.containerd.runc.v2"), "no runtime"),
        (runtimes("p", runtime_type="io.containerd.zeropod.v2"), "passes no annotations on"),
    ],
)
def test_what_is_not_configured_is_said(config: dict[str, Any], words: str) -> None:
    with pytest.raises(Missing, match=words):
        configured(config)


@pytest.mark.parametrize(
    ("release", "good"), [("6.1.0-57-cloud-amd64", True), ("6.18.44", True), ("5.15.0-1", False), ("x", False)]
)
def test_kernels_are_told_apart_by_their_numbers(release: str, good: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: release)
    if good:
        assert release in looks.kernel()
    else:
        with pytest.raises(Missing):
            looks.kernel()


def program(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(looks, "environment", lambda: {"PATH": str(tmp_path)})
    return tmp_path


@pytest.mark.parametrize(
    ("version", "good"), [("4.2", True), ("4.2.1", True), ("5.0", True), ("4.1.1", False), ("3.17.1", False)]
)
def test_an_old_criu_will_not_do(programs: Path, version: str, good: bool) -> None:
    program(programs, "criu", f"echo Version: {version}")
    if good:
        assert looks.criu_version() == version
    else:
        with pytest.raises(Missing, match=r"4\.2 is the oldest"):
            looks.criu_version()


def test_what_criu_says_of_the_kernel_is_passed_on(programs: Path) -> None:
    program(programs, "criu", "echo 'Error (x.c:1): no CONFIG_X' >&2; exit 1")
    with pytest.raises(Missing, match="no CONFIG_X"):
        looks.criu_check()


def test_a_program_that_hangs_is_not_waited_for(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs, "runc", "exec /bin/sleep 100")
    monkeypatch.setattr(looks, "QUICK", 0.05)
    with pytest.raises(Missing, match="has not ended"):
        looks.runc()


def test_a_program_that_is_not_there_is_named(programs: Path) -> None:
    with pytest.raises(Missing, match="criu is neither in"):
        looks.criu_check()
