"""An export's directory: made whole or not at all, decided once, and given back as it was."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod import paths
from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports import decision, export, index_file
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.export import Export
from zeropod.runtime.exports.manifest import Manifest, Needs, Source
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.pager.journal import MISSING

KEY = "0f-uid.web"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "EXPORTS", tmp_path / "exports")
    (tmp_path / "images").mkdir()
    (tmp_path / "images/core-1.img").write_bytes(b"core")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/pages-2").write_bytes(bytes(4 * PAGE))
    return tmp_path


def made(place: Path, key: str = KEY) -> Export:
    one = Export.of(key)
    index = Index([Extent(PAGE, 3 * PAGE, 2, PAGE, bytes([MISSING, MISSING]))])
    one.make(Manifest(Source(), Needs(), asleep=True), {1: index}, place / "images", place / "pages")
    return one


def test_it_is_read_as_it_was_made(place: Path) -> None:
    found = made(place).read()
    assert found.files == {
        "images/core-1.img": 4,
        "store/pages-2": 4 * PAGE,
        "index-1": found.files["index-1"],
    }
    assert found.asleep
    assert Export.of(KEY).indexes(found)[1].missing == [(PAGE, 3 * PAGE)]
    assert not (place / "images").exists()
    assert os.listdir(place / "exports") == [KEY]
    assert (place / "exports").stat().st_mode & 0o777 == 0o700


def test_files_in_it_keep_what_identifies_them(place: Path) -> None:
    path = place / "pages/pages-2"
    before = path.stat()
    one = made(place)
    one.give_back(place / "images", place / "pages")
    after = path.stat()
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert not one.exists


def test_what_cannot_be_made_is_back_at_its_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file, "write", full)
    with pytest.raises(OSError, match="No space left"):
        made(place)
    assert (place / "images/core-1.img").exists()
    assert (place / "pages/pages-2").exists()
    assert os.listdir(place / "exports") == []


def test_an_older_one_makes_room_unless_it_is_still_being_taken(place: Path) -> None:
    made(place)
    (place / "images").mkdir()
    (place / "images/core-1.img").write_bytes(b"newer")
    (place / "pages").mkdir()
    (place / "pages/pages-2").write_bytes(bytes(4 * PAGE))
    one = made(place)
    assert one.read().files["images/core-1.img"] == 5
    assert one.decide(Decision.GIVEN) is Decision.GIVEN
    with pytest.raises(BadExport, match="still being taken"):
        made(place)


@pytest.mark.parametrize("first", list(Decision))
@pytest.mark.parametrize("second", list(Decision))
def test_the_first_decision_holds_for_ever(place: Path, first: Decision, second: Decision) -> None:
    one = made(place)
    assert one.decided is None
    assert one.decide(first) is first
    assert one.decide(second) is first
    assert one.decided is first
    assert sorted(os.listdir(one.directory)) == ["decision", "images", "index-1", "manifest.json", "store"]


def test_of_many_that_decide_at_once_all_hear_the_same(place: Path) -> None:
    directory, heard = made(place).directory, []
    barrier = threading.Barrier(8)

    def decide(wanted: Decision) -> None:
        barrier.wait()
        heard.append(decision.decide(directory, wanted))

    threads = [threading.Thread(target=decide, args=(list(Decision)[number % 2],)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(heard) == 8
    assert len(set(heard)) == 1


@given(content=st.binary(max_size=100))
def test_any_other_decision_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    directory = tmp_path_factory.mktemp("export")
    (directory / "decision").write_bytes(content)
    if content.strip() in (b"given", b"withdrawn"):
        return
    with pytest.raises(BadExport, match="neither given nor withdrawn"):
        decision.read(directory)


def test_files_that_are_not_what_they_were_are_refused(place: Path) -> None:
    one = made(place)
    found = one.read()
    for path, words in ((one.images / "core-1.img", "bytes instead of"), (one.store / "pages-2", "bytes instead of")):
        content = path.read_bytes()
        path.write_bytes(content + b"x")
        with pytest.raises(BadExport, match=words):
            one.check_files(found)
        path.write_bytes(content)
    (one.images / "core-2.img").touch()
    with pytest.raises(BadExport, match="does not belong to it"):
        one.check_files(found)
    (one.images / "core-2.img").unlink()
    (one.images / "core-1.img").unlink()
    with pytest.raises(BadExport, match="is missing"):
        one.check_files(found)
    (one.images / "core-1.img").symlink_to("/etc/passwd")
    with pytest.raises(BadExport, match="is not a file"):
        one.check_files(found)


def test_what_was_given_becomes_the_takers(place: Path) -> None:
    one = made(place)
    (place / "new").mkdir()
    (place / "new/images").mkdir()
    export.take(one, place / "new/images", place / "new/pages")
    assert os.listdir(place / "new/images") == ["core-1.img"]
    assert os.listdir(place / "new/pages") == ["pages-2"]
    assert not one.exists


@given(st.text(max_size=40))
def test_a_key_is_a_file_name_and_nothing_else(key: str) -> None:
    try:
        found = Export.of(key)
    except ValueError:
        return
    assert found.directory.parent == paths.EXPORTS
    assert "/" not in key
    assert not key.startswith(".")


def test_keys_do_not_meet() -> None:
    assert export.key_of("a-b", "c") != export.key_of("a", "b-c")
    assert export.key_without_pod("a", "b.c") != export.key_without_pod("a.b", "c")
    for bad in (("", "web"), ("a/b", "web"), ("a.b", "web"), ("a", "w eb"), ("a" * 65, "web")):
        with pytest.raises(ValueError, match="is not the key of an export"):
            export.key_of(*bad)
