"""Which mode is run: by the name that zeropod was called by, else by the first argument."""

import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest

import zeropod
from zeropod import SHIM_BINARY
from zeropod.__main__ import MODES, main


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What a mode `probe`, and the shim's, is called with; it returns 7."""
    received: list[list[str]] = []

    def entry(arguments: list[str]) -> int:
        received.append(arguments)
        return 7

    module = types.ModuleType("zeropod_probe")
    module.__dict__["main"] = entry
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(MODES, "probe", (module.__name__, "a mode of the tests"))
    monkeypatch.setitem(MODES, "shim", (module.__name__, "the shim"))
    return received


def test_the_first_argument_chooses_and_the_rest_is_the_modes(calls: list[list[str]]) -> None:
    assert main(["/opt/zeropod/bin/zeropod", "probe", "--json", "--version"]) == 7
    assert calls == [["--json", "--version"]]


@pytest.mark.parametrize("folder", ["", "/usr/local/bin/", "./"])
def test_under_the_shims_name_everything_is_the_shims(calls: list[list[str]], folder: str) -> None:
    assert main([folder + SHIM_BINARY, "-namespace", "default", "-id", "r1", "start"]) == 7
    assert main([folder + SHIM_BINARY]) == 7
    assert calls == [["-namespace", "default", "-id", "r1", "start"], []]


@pytest.mark.parametrize(
    ("name", "mode"), [("kubectl-zeropod", "kubectl"), ("kubectl_complete-zeropod", "kubectl-complete")]
)
def test_under_names_that_kubectl_runs_everything_is_the_plugins(
    calls: list[list[str]], monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    monkeypatch.setitem(MODES, mode, MODES["probe"])
    assert main([f"/home/me/bin/{name}", "ps", "--version"]) == 7
    assert calls == [["ps", "--version"]]


def test_without_arguments_it_explains_itself_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zeropod"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "usage: zeropod MODE" in said.err


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_mode_that_is_offered_exists(mode: str) -> None:
    module, summary = MODES[mode]
    module, _, function = module.partition(":")
    assert importlib.util.find_spec(module) is not None
    assert not function or callable(getattr(importlib.import_module(module), function))
    assert summary


def bare(program: str, *arguments: str) -> list[str]:
    """What `program` prints, in words, in a Python that sees zeropod's sources and no installed package."""
    assert zeropod.__file__ is not None
    folder = zeropod.__file__.removesuffix("/zeropod/__init__.py")
    program = f"import sys; sys.path.insert(0, sys.argv.pop(1)); {program}; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", program, folder, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, check=True)
    return done.stdout.split()


def test_asking_for_the_version_imports_next_to_nothing() -> None:
    imported = bare("from zeropod.__main__ import main; main()", "--version")
    assert imported[:2] == ["zeropod", zeropod.__version__]
    assert not {"os", "collections", "trio", "google", "typing", "importlib"} & set(imported)


@pytest.mark.parametrize("module", ["zeropod.launch.flags", "zeropod.launch.start", "zeropod.boot.unpack"])
def test_what_containerd_waits_for_imports_only_the_standard_library(module: str) -> None:
    imported = {name.partition(".")[0] for name in bare(f"import {module}")}
    assert imported <= sys.stdlib_module_names | {"zeropod", "__main__"}


def test_deleting_what_the_shim_has_removed_imports_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "removed").touch()
    program = "from zeropod.launch.flags import main; main(sys.argv[1:])"
    imported = bare(program, "-namespace", "k8s.io", "-id", "web", "-bundle", str(tmp_path), "delete")
    assert "zeropod.shim.delete" in imported
    assert not {"os", "json", "pathlib", "subprocess", "zeropod.shim.clean"} & set(imported)
