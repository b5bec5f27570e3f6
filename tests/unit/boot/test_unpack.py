"""zeropod.pyz unpacks itself once, for root's eyes alone, and still runs where it cannot."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pyz import archive
from zeropod.boot import build_info, unpack
from zeropod.boot.permissions import exposure

SOURCE = Path(unpack.__file__).parent.parent
RUN_SECONDS = 60


@pytest.fixture
def library(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path / "zeropod" / "lib"


@pytest.fixture
def pyz(library: Path, tmp_path: Path) -> Path:
    """An archive of zeropod's entry alone, with a mode `place` that prints where its code came from."""
    modules = ("__init__", "__main__", *(f"boot/{own.stem}" for own in (SOURCE / "boot").glob("*.py")))
    entries = {f"zeropod/{name}.py": (SOURCE / f"{name}.py").read_bytes() for name in modules}
    for name, source in (("__main__", "archive_main"), ("start", "start")):
        entries[f"{name}.py"] = (SOURCE.parent.parent / "installer" / f"{source}.py").read_bytes()
    table = b'"unpack": ('
    place = b'"place": ("zeropod.place", "says where its code is"),\n    '
    entries["zeropod/__main__.py"] = entries["zeropod/__main__.py"].replace(table, place + table)
    entries["zeropod/place.py"] = b"def main(arguments):\n    print(__file__, *arguments)\n    return 3\n"
    path = tmp_path / "zeropod.pyz"
    path.write_bytes(archive(entries, str(library), 0))
    path.chmod(0o755)
    return path


def tree_of(pyz: Path) -> Path:
    with zipfile.ZipFile(pyz) as opened:
        return Path(opened.read("zeropod/boot/build_info.py").decode().rpartition("= ")[2].strip().strip("'\""))


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}"}
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True, env=environment)


def run(*arguments: str | Path) -> tuple[int, str, str]:
    with command(*arguments) as process:
        out, err = process.communicate(timeout=RUN_SECONDS)
    return process.returncode, out, err


def test_the_first_use_unpacks_and_goes_on_there_with_its_arguments(pyz: Path, library: Path) -> None:
    assert run(pyz, "place", "a b", "$c", "") == (3, f"{tree_of(pyz)}/zeropod/place.py a b $c \n", "")
    assert tree_of(pyz).parent == library


def test_later_uses_do_not_open_the_archive(pyz: Path) -> None:
    run(pyz, "unpack")
    (tree_of(pyz) / "start.py").write_text("import sys\nprint('quick', *sys.argv[1:])\n")
    assert run(pyz, "place", "x") == (0, f"quick {pyz} place x\n", "")


def test_the_name_it_was_called_by_survives(pyz: Path, tmp_path: Path) -> None:
    link = tmp_path / "containerd-shim-zeropod-v2"
    link.symlink_to(pyz)
    run(pyz, "unpack")
    # The shim's module is not in this archive, so asking for it shows that the name chose it.
    for start in ([link], [sys.executable, "-I", "-S", link]):
        status, _, err = run(*start, "start")
        assert status == 1
        assert "No module named 'zeropod.launch'" in err


def test_version_and_help_leave_nothing_behind(pyz: Path, library: Path) -> None:
    assert run(pyz, "--version")[0] == 0
    assert run(pyz, "--help")[0] == 0
    assert not library.parent.exists()


def test_nobody_else_may_look_into_it(pyz: Path, library: Path) -> None:
    run(pyz, "unpack")
    for directory in (library.parent, library, tree_of(pyz)):
        assert directory.stat().st_mode & 0o7777 == 0o700


def test_everything_in_it_is_compiled_under_its_final_name(pyz: Path) -> None:
    run(pyz, "unpack")
    tree = tree_of(pyz)
    sources = {path.stem for path in (tree / "zeropod").glob("*.py")}
    compiled = list((tree / "zeropod" / "__pycache__").glob("*.pyc"))
    assert {path.name.partition(".")[0] for path in compiled} == sources
    assert all(f"{tree}/zeropod/".encode() in path.read_bytes() for path in compiled)


def test_what_others_can_write_to_is_not_run(pyz: Path) -> None:
    run(pyz, "unpack")
    tree = tree_of(pyz)
    tree.chmod(0o777)
    assert run(pyz, "place") == (3, f"{pyz}/zeropod/place.py\n", "")
    status, _, err = run(sys.executable, "-I", "-S", pyz, "unpack")
    assert status == 1
    assert f"{tree} has mode 0777" in err


@pytest.mark.parametrize("module", ["start", "zeropod/boot/tree_main", "zeropod/boot/permissions", "zeropod/__init__"])
def test_nothing_of_a_tree_that_others_can_write_to_says_whether_to_run_it(pyz: Path, module: str) -> None:
    run(pyz, "unpack")
    tree = tree_of(pyz)
    tree.chmod(0o777)
    (tree / f"{module}.py").write_text("print('run as root')\ndef exposure(directory):\n    return None\n")
    for compiled in tree.glob("zeropod/__pycache__/*"):
        compiled.unlink()
    assert run(pyz, "place") == (3, f"{pyz}/zeropod/place.py\n", "")


def test_where_it_cannot_unpack_it_runs_from_the_archive_in_silence(pyz: Path, library: Path) -> None:
    library.parent.write_text("in the way")
    assert run(pyz, "place") == (3, f"{pyz}/zeropod/place.py\n", "")
    status, out, err = run(pyz, "unpack")
    assert (status, out) == (1, "")
    assert str(library.parent) in err


def test_first_uses_at_once_unpack_once(pyz: Path, library: Path) -> None:
    processes = [command(pyz, "place") for _ in range(4)]
    answers = [process.communicate(timeout=RUN_SECONDS) for process in processes]
    assert answers == [(f"{tree_of(pyz)}/zeropod/place.py\n", "")] * 4
    assert sorted(path.name for path in library.iterdir()) == [".lock", tree_of(pyz).name]


def test_what_a_killed_one_left_is_removed(pyz: Path, library: Path) -> None:
    (library / ".new-left").mkdir(parents=True, mode=0o700)
    library.parent.chmod(0o700)
    library.chmod(0o700)
    assert run(pyz, "unpack")[0] == 0
    assert not (library / ".new-left").exists()


def test_waiting_for_the_turn_has_an_end(pyz: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.mkdir(parents=True, mode=0o700)
    monkeypatch.setattr(unpack, "TURN_SECONDS", 0.0)
    with unpack._turn(str(library)), pytest.raises(unpack.UnpackError, match="another process"):
        unpack.unpack(str(pyz), str(tree_of(pyz)))


def test_a_checkout_cannot_be_unpacked(capsys: pytest.CaptureFixture[str]) -> None:
    assert build_info.TREE is None
    assert unpack.main([]) == 1
    assert "checkout" in capsys.readouterr().err


class TestExposure:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        inner = tmp_path / "outer" / "inner"
        inner.mkdir(parents=True, mode=0o700)
        return inner

    def test_a_directory_of_ones_own_is_private(self, directory: Path) -> None:
        assert exposure(str(directory)) is None

    @pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
    def test_one_that_others_write_to_is_not(self, directory: Path, mode: int) -> None:
        directory.chmod(mode)
        assert f"{directory} has mode {mode:04o}" in (exposure(str(directory)) or "")

    def test_nor_one_below_such_a_directory(self, directory: Path) -> None:
        directory.parent.chmod(0o777)
        assert f"{directory.parent} has mode 0777" in (exposure(str(directory)) or "")

    def test_but_one_below_a_sticky_directory_is(self, directory: Path) -> None:
        directory.parent.chmod(0o1777)
        assert exposure(str(directory)) is None

    def test_a_link_is_not_a_directory(self, directory: Path) -> None:
        link = directory.parent / "link"
        link.symlink_to(directory)
        assert f"{link} is not a directory" in (exposure(str(link)) or "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
    def test_one_of_another_user_is_not_private(self, directory: Path) -> None:
        os.chown(directory, 12345, -1)
        assert "belongs to uid 12345" in (exposure(str(directory)) or "")
