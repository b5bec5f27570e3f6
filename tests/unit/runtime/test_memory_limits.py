"""Limits that were opened are put back, by whoever finds the record; what others have set since stays."""

import json
from pathlib import Path

import pytest

from zeropod.runtime.memory.limits import opened, restore_limits


@pytest.fixture
def limit(tmp_path: Path) -> Path:
    file = tmp_path / "memory.swap.max"
    file.write_text("0\n")
    return file


def test_it_is_open_meanwhile_and_the_record_is_there_before_it_is(tmp_path: Path, limit: Path) -> None:
    record = tmp_path / "record"
    with opened(record, {limit: "max"}):
        assert limit.read_text() == "max"
        assert json.loads(record.read_text()) == [[str(limit), "0", "max"]]
    assert limit.read_text() == "0"
    assert not record.exists()


def test_it_is_put_back_on_an_error(tmp_path: Path, limit: Path) -> None:
    with pytest.raises(RuntimeError), opened(tmp_path / "record", {limit: "max"}):
        raise RuntimeError
    assert limit.read_text() == "0"


def test_without_a_record_nothing_is_opened(tmp_path: Path, limit: Path) -> None:
    with pytest.raises(FileNotFoundError), opened(tmp_path / "no" / "record", {limit: "max"}):
        pass
    assert limit.read_text() == "0\n"


def test_nothing_to_open_leaves_no_trace(tmp_path: Path) -> None:
    with opened(tmp_path / "no" / "record", {}):
        pass
    restore_limits(tmp_path / "no" / "record")


def test_what_others_have_set_meanwhile_stays(tmp_path: Path, limit: Path) -> None:
    with opened(tmp_path / "record", {limit: "max"}):
        limit.write_text("1048576")
    assert limit.read_text() == "1048576"


def test_a_successor_puts_back(tmp_path: Path, limit: Path) -> None:
    record = tmp_path / "record"
    limit.write_text("max\n")
    record.write_text(json.dumps([[str(limit), "0", "max"], [str(tmp_path / "gone" / "file"), "1", "max"]]))
    restore_limits(record)
    assert limit.read_text() == "0"
    assert not record.exists()


def test_what_cannot_be_put_back_stays_in_the_record(
    tmp_path: Path, limit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record, directory = tmp_path / "record", tmp_path / "directory"
    directory.mkdir()
    limit.write_text("max\n")
    record.write_text(json.dumps([[str(directory), "0", "max"], [str(limit), "0", "max"]]))
    restore_limits(record)
    assert limit.read_text() == "0"
    assert json.loads(record.read_text()) == [[str(directory), "0", "max"]]
    assert f"cannot restore {directory} to 0" in caplog.text


@pytest.mark.parametrize("text", ["", "{", "[1]", "[[1]]", "null"])
def test_a_strange_record_is_said_and_removed(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    record = tmp_path / "record"
    record.write_text(text)
    restore_limits(record)
    assert "are not restored" in caplog.text
    assert not record.exists()
