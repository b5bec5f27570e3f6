"""The door: what the script is answered, by what means, and that it goes on to Python whenever it is not.

The script is the one that zeropod.pyz begins with; Python is a stand-in that says that it was started.
"""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.unit.shim.script import FLAGS, PYTHON, SECONDS, Script, said

from pyz import INSTALLER
from zeropod.shim import zygote
from zeropod.shim.door import Door, order_of

PLACE = zygote.DIRECTORY
BUILD = "/lib/build"


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        monkeypatch.setattr(zygote, "DIRECTORY", made)
        yield Path(made)


SHELLS = [path for path in map(shutil.which, ("sh", "dash", "bash", "busybox", "ksh", "mksh")) if path]
"""What a distribution may have as its sh."""


@pytest.fixture(params=dict.fromkeys(map(os.path.realpath, SHELLS)))
def script(tmp_path: Path, directory: Path, request: pytest.FixtureRequest) -> Iterator[Script]:
    made = Script(tmp_path, directory, BUILD, request.param)
    yield made
    made.end()


@pytest.fixture
def door() -> Iterator[Door]:
    with closing(Door(BUILD)) as made:
        yield made


def test_the_script_looks_where_doors_are() -> None:
    assert f"door={PLACE}/${{tree##*/}}\n" in (INSTALLER / "header.sh").read_text()


def test_who_asks_is_answered(script: Script, door: Door) -> None:
    process = script.start()
    assert door.asker() == process.pid
    door.answer(r'{"version": 3, "address": "unix:///a\b"}')
    door.close()
    assert said(process) == '{"version": 3, "address": "unix:///a\\b"}\n'


def test_all_else_that_it_wants_is_known(script: Script, door: Door) -> None:
    script.start()
    order = order_of(door.asker())
    assert [os.fsdecode(word) for word in order.arguments] == [str(script.path), *FLAGS]
    assert order.directory == os.fsencode(script.bundle)
    assert (order.environment[b"A"], order.environment[b"EMPTY"]) == (b"1=2", b"")
    assert order.oom_score == zygote.oom_score(os.getpid())


def test_it_would_have_had_the_zygote_that_its_child_would(script: Script, door: Door) -> None:
    script.start()
    assert zygote.place(BUILD, door.asker()) == zygote.place(BUILD)


def test_it_would_not_have_had_one_of_other_circumstances(script: Script, door: Door) -> None:
    before = os.umask(0o027)
    try:
        script.start()
    finally:
        os.umask(before)
    assert zygote.place(BUILD, door.asker()) != zygote.place(BUILD)


def test_what_is_no_script_has_no_order() -> None:
    with pytest.raises(ValueError, match="no shim's script"):
        order_of(os.getpid())


@pytest.mark.parametrize("record", [b"x", b"", b"1 2      "])
def test_what_is_no_question_is_refused(door: Door, directory: Path, record: bytes) -> None:
    os.write(door.question, record.ljust(9))
    with pytest.raises(ValueError, match=r"."):
        door.asker()


def test_without_a_door_it_goes_on_to_python(script: Script) -> None:
    assert script.says() == PYTHON


def test_after_the_door_was_closed_it_goes_on_to_python(script: Script) -> None:
    with closing(Door(BUILD)):
        pass
    assert script.says() == PYTHON


def test_who_gets_no_answer_goes_on_to_python(script: Script, door: Door) -> None:
    process = script.start()
    door.asker()
    door.close()
    assert said(process) == PYTHON


def test_of_many_that_come_at_once_one_asks(script: Script, door: Door) -> None:
    processes = [script.start() for _ in range(8)]
    asker = door.asker()
    outputs = {process.pid: said(process) for process in processes if process.pid != asker}
    assert set(outputs.values()) == {PYTHON}
    assert len(outputs) == 7
    door.answer("{}")
    assert [said(process) for process in processes if process.pid == asker] == ["{}\n"]


def test_one_that_is_killed_before_it_asks_leaves_the_door_to_nobody(script: Script, door: Door) -> None:
    [fifo] = Path(zygote.DIRECTORY).glob("*.answer")
    fifo.with_suffix(".taken").touch()
    assert script.says() == PYTHON
    door.close()
    with closing(Door(BUILD)) as successor:
        process = script.start()
        successor.asker()
        successor.answer("{}")
        assert said(process) == "{}\n"


def test_a_spare_that_dies_is_not_waited_for(script: Script, directory: Path) -> None:
    program = "; ".join(
        (
            "import sys, time",
            "from zeropod.shim import zygote, door",
            f"zygote.DIRECTORY = {str(directory)!r}",
            f"opened = door.Door({BUILD!r})",
            "print(opened.asker(), flush=True)",
            "time.sleep(60)",
        )
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    spare = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment)
    assert spare.stdout is not None
    try:
        while not (directory / "build").exists():
            assert spare.poll() is None
        process = script.start()
        assert int(spare.stdout.readline()) == process.pid
        spare.send_signal(signal.SIGKILL)
        assert said(process) == PYTHON
        # What it has left behind is there, and nobody waits at it, either.
        assert len(list(directory.glob("*.answer"))) == 1
        assert script.says() == PYTHON
    finally:
        spare.kill()
        spare.communicate()


def test_who_has_asked_and_gone_is_noticed(script: Script, door: Door) -> None:
    process = script.start()
    door.asker()
    process.kill()
    process.wait(SECONDS)
    with pytest.raises(BrokenPipeError):
        door.answer("{}")


@pytest.mark.parametrize("flags", [("-id", "start", "delete"), ("-v",), ("start", "delete")])
def test_only_a_start_asks(script: Script, door: Door, flags: tuple[str, ...]) -> None:
    assert script.says(*flags) == PYTHON


def test_only_a_shim_asks(script: Script, door: Door) -> None:
    script.path = script.path.rename(script.path.with_name("zeropod"))
    assert script.says() == PYTHON


@pytest.mark.parametrize("content", ["", "/nonexistent\n", "no newline"])
def test_what_is_no_door_is_passed_by(script: Script, directory: Path, content: str) -> None:
    (directory / "build").write_text(content)
    assert script.says() == PYTHON


def test_it_replaces_what_a_killed_spare_of_this_build_has_left(script: Script, directory: Path) -> None:
    left = Door(BUILD)
    (directory / "build.0-0.new").touch()
    kept = [directory / "other.1-1.ask", directory / "lock"]
    for file in kept:
        file.touch()
    with closing(Door(BUILD)) as fresh:
        assert len(list(directory.iterdir())) == len(kept) + 3
        process = script.start()
        fresh.asker()
        fresh.answer("{}")
        assert said(process) == "{}\n"
    assert sorted(directory.iterdir()) == sorted(kept)
    left.close()


def test_one_that_was_replaced_takes_nothing_from_its_successor(script: Script, door: Door) -> None:
    with closing(Door(BUILD)) as successor:
        door.close()
        process = script.start()
        successor.asker()
        successor.answer("{}")
        assert said(process) == "{}\n"


def test_it_is_for_the_owner_alone(door: Door, directory: Path) -> None:
    files = list(directory.iterdir())
    assert len(files) == 3
    assert [file for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077] == []


def test_where_it_cannot_be_opened_nothing_is_left(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no space"):
        Door(BUILD)
    assert list(directory.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_its_ends_are_not_inherited(door: Door) -> None:
    fifos = [fd for fd in map(int, os.listdir("/proc/self/fd")) if "/build." in link(fd)]
    assert len(fifos) == 2
    assert not any(os.get_inheritable(fd) for fd in fifos)


def link(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def test_a_socket_beside_it_stays(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "0123"))
        with closing(Door(BUILD)):
            pass
        assert (directory / "0123").exists()
