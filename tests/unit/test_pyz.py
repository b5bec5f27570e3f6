"""zeropod.pyz as people get it: the same bytes twice, nothing compiled in it, run by a bare Python."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyz import INSTALLER, ROOT, build, main, merge
from wheels import BuildError, fetch_wheels, find_wheels, read_lock, wanted, wheel_entries

VERSION = "zeropod 0.1.0\n"
# No site-packages and none of the caller's variables: Python as it is where nothing was installed.
BARE = [sys.executable, "-I", "-S"]
RUN_SECONDS = 60
LARGEST = 6_000_000
"""Bytes of an archive: every node has it, and every first use unpacks it."""


@pytest.fixture(scope="session")
def wheels() -> list[Path]:
    return fetch_wheels(INSTALLER / "requirements.lock", ROOT / "build/wheels")


@pytest.fixture(scope="session")
def pyz(wheels: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that has never run, and unpacks itself into a folder of the tests'."""
    folder = tmp_path_factory.mktemp("pyz")
    build(folder / "zeropod.pyz", wheels, library=f"{folder}/zeropod/lib")
    return folder / "zeropod.pyz"


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=RUN_SECONDS,
        env={"PATH": path} | environment,
        check=False,
    )


def fake_wheel(
    folder: Path,
    tag: str = "py3-none-any",
    files: tuple[str, ...] = ("thing/__init__.py",),
    purelib: str = "true",
    licence: str = "licenses/LICENSE",
) -> Path:
    path = folder / f"thing-1.0-{tag}.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name in files:
            wheel.writestr(name, f"# {name}\n")
        wheel.writestr("thing-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: {purelib}\nTag: {tag}\n")
        if licence:
            wheel.writestr(f"thing-1.0.dist-info/{licence}", "Do as you like.\n")
    return path


class TestBuilding:
    def test_the_same_input_gives_the_same_bytes(self, wheels: list[Path], tmp_path: Path) -> None:
        build(tmp_path / "one" / "zeropod.pyz", wheels)
        umask = os.umask(0o077)
        try:
            build(tmp_path / "two" / "other name.pyz", reversed(wheels))
        finally:
            os.umask(umask)
        one, two = tmp_path / "one" / "zeropod.pyz", tmp_path / "two" / "other name.pyz"
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_mode == two.stat().st_mode
        assert one.stat().st_mode & 0o777 == 0o755

    def test_the_epoch_of_the_source_dates_the_entries(self, wheels: list[Path], tmp_path: Path) -> None:
        build(tmp_path / "zeropod.pyz", wheels, seconds=1_700_000_000)
        with zipfile.ZipFile(tmp_path / "zeropod.pyz") as opened:
            assert {entry.date_time for entry in opened.infolist()} == {(2023, 11, 14, 22, 13, 20)}

    def test_it_stays_small(self, pyz: Path) -> None:
        assert pyz.stat().st_size < LARGEST

    def test_every_dependency_comes_with_its_licence(self, pyz: Path) -> None:
        carried = {requirement.name for requirement in read_lock((INSTALLER / "requirements.lock").read_text())}
        with zipfile.ZipFile(pyz) as opened:
            licences = {name.split("/")[1] for name in opened.namelist() if name.startswith("licenses/")}
        names = {(name.rpartition("-")[0] or name).replace("_", "-") for name in licences}
        assert names == carried | {"zeropod"}

    @pytest.mark.parametrize(
        "name", ["trio/_tests/test_run.py", "trio/__pycache__/abc.pyc", "trio/py.typed", "zeropod/a_pb2.pyi"]
    )
    def test_what_nothing_imports_stays_out(self, name: str, pyz: Path) -> None:
        assert not wanted(name)

    def test_an_impossible_place_to_unpack_to_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="absolute path of plain characters"):
            build(tmp_path / "zeropod.pyz", [], library="/var/lib/$(reboot)")
        assert not list(tmp_path.iterdir())


class TestWheels:
    def test_a_pure_wheel_is_carried_with_its_licence(self, tmp_path: Path) -> None:
        entries = wheel_entries(fake_wheel(tmp_path))
        assert set(entries) == {"thing/__init__.py", "licenses/thing-1.0/LICENSE"}

    @pytest.mark.parametrize("name", ["thing/_speedups.cpython-311-x86_64-linux-gnu.so", "thing/x.pyd", "lib/x.so.1"])
    def test_a_compiled_file_in_a_wheel_that_calls_itself_pure_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="compiled"):
            wheel_entries(fake_wheel(tmp_path, files=("thing/__init__.py", name)))

    @pytest.mark.parametrize("tag", ["cp311-cp311-manylinux_2_17_x86_64", "py3-none-linux_x86_64", "py2-none-any"])
    def test_a_wheel_for_some_machines_only_is_refused(self, tag: str, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="not a pure-Python wheel"):
            wheel_entries(fake_wheel(tmp_path, tag=tag))

    def test_a_wheel_that_wants_the_platform_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="not pure Python"):
            wheel_entries(fake_wheel(tmp_path, purelib="false"))

    def test_a_wheel_that_installs_elsewhere_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="elsewhere"):
            wheel_entries(fake_wheel(tmp_path, files=("thing-1.0.data/scripts/thing",)))

    def test_a_wheel_without_a_licence_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="licence"):
            wheel_entries(fake_wheel(tmp_path, licence=""))

    def test_two_packages_with_one_file_name_are_refused(self) -> None:
        with pytest.raises(BuildError, match="two of the packages"):
            merge([{"thing.py": b"1"}, {"thing.py": b"2"}])

    def test_a_wheel_whose_hash_is_not_in_the_lock_is_not_taken(self, tmp_path: Path) -> None:
        fake_wheel(tmp_path)
        requirements = read_lock(f"thing==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
        assert find_wheels(requirements, tmp_path) == ([], requirements)

    @pytest.mark.parametrize("line", ["trio>=0.30", "trio==0.35.0", "trio @ file:///trio.whl"])
    def test_a_lock_that_leaves_something_open_is_refused(self, line: str) -> None:
        with pytest.raises(BuildError, match="not pinned"):
            read_lock(line)

    def test_the_command_says_what_is_wrong_and_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lock = tmp_path / "lock"
        lock.write_text("trio>=0.30\n")
        monkeypatch.setattr(sys, "argv", ["pyz.py", "--lock", str(lock), "--output", str(tmp_path / "zeropod.pyz")])
        assert main() == 1
        assert "trio>=0.30" in capsys.readouterr().err
        assert not (tmp_path / "zeropod.pyz").exists()


class TestRunning:
    def test_bare_python_runs_it(self, pyz: Path) -> None:
        assert run(*BARE, pyz, "--version").stdout == VERSION

    def test_it_runs_by_itself(self, pyz: Path) -> None:
        assert run(pyz, "--version").stdout == VERSION

    def test_help_explains_every_mode(self, pyz: Path) -> None:
        answer = run(*BARE, pyz, "--help")
        assert answer.returncode == 0
        assert all(f"\n  {mode} " in answer.stdout for mode in ("shim", "ps"))

    def test_an_unknown_mode_is_an_error_that_names_the_known_ones(self, pyz: Path) -> None:
        answer = run(*BARE, pyz, "nap")
        assert (answer.returncode, answer.stdout) == (2, "")
        assert "'nap'" in answer.stderr
        assert "shim, ps" in answer.stderr

    def test_the_callers_python_variables_have_no_say(self, pyz: Path, tmp_path: Path) -> None:
        (tmp_path / "zeropod.py").write_text("raise SystemExit('not ours')\n")
        assert run(pyz, "--version", PYTHONPATH=str(tmp_path), PYTHONSTARTUP="/nowhere").stdout == VERSION

    def test_the_dependencies_work_from_the_archive(self, pyz: Path) -> None:
        program = """
import sys
sys.path.insert(0, sys.argv[1])
import trio
from google.protobuf import empty_pb2
from google.protobuf.internal import api_implementation
trio.run(trio.sleep, 0)
empty_pb2.Empty().SerializeToString()
assert all(module.__file__.startswith(sys.argv[1]) for module in (trio, empty_pb2)), trio
print(api_implementation.Type())
"""
        answer = run(*BARE, "-c", program, pyz)
        assert (answer.stdout, answer.stderr) == ("python\n", "")

    def test_without_python_it_says_what_it_needs(self, pyz: Path, tmp_path: Path) -> None:
        answer = run("/bin/sh", pyz, "--version", PATH=str(tmp_path))
        assert answer.returncode == 127
        assert "Python 3.11 or newer" in answer.stderr
