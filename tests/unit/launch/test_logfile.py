"""The shim's log lines and the fifo that they go into."""

import logging
import os
import re
import select
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.launch.logfile import ContainerdFormatter, FifoHandler

FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)', re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t"}


def fields(line: str) -> dict[str, str]:
    """A line as a logfmt reader takes it."""
    found, end = {}, 0
    for match in FIELD.finditer(line):
        assert match.start() == end
        end = match.end()
        value = match[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", lambda escape: ESCAPES.get(escape[1], escape[1]), value[1:-1], flags=re.DOTALL)
        found[match[1]] = value
    assert end == len(line)
    return found


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("zeropod", level, __file__, 1, message, (), None)


@given(st.text())
def test_any_message_is_one_line_that_reads_back_the_same(message: str) -> None:
    line = ContainerdFormatter().format(record(message))
    assert "\n" not in line
    assert fields(line)["msg"] == message


@pytest.mark.parametrize(
    ("message", "written"),
    [("started", "msg=started"), ("is awake", 'msg="is awake"'), ("", 'msg=""'), ('a "b"', r'msg="a \"b\""')],
)
def test_only_what_needs_quotes_gets_them(message: str, written: str) -> None:
    assert f" {written} " in ContainerdFormatter().format(record(message))


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (logging.WARNING, "warning"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "fatal"),
    ],
)
def test_levels_have_the_names_of_logrus(level: int, name: str) -> None:
    assert fields(ContainerdFormatter().format(record("x", level)))["level"] == name


def test_a_line_says_when_and_of_which_container() -> None:
    entry = record("x")
    entry.container = "web"
    found = fields(ContainerdFormatter().format(entry))
    assert datetime.fromisoformat(found["time"]).timestamp() == pytest.approx(entry.created, abs=1e-3)
    assert found["time"].endswith("Z")
    assert (found["container"], found["runtime"]) == ("web", "io.containerd.zeropod.v2")


def test_an_exception_is_part_of_the_message() -> None:
    try:
        raise LookupError("nothing there")
    except LookupError:
        entry = logging.LogRecord("zeropod", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    message = fields(ContainerdFormatter().format(entry))["msg"]
    assert message.startswith("failed\nTraceback")
    assert "LookupError: nothing there" in message


class Reader:
    """containerd's end of the fifo."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def lines(self) -> list[str]:
        data = b""
        while True:
            try:
                part = os.read(self.fd, 1 << 20)
            except BlockingIOError:
                part = b""
            if not part:
                return data.decode().splitlines()
            data += part


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path / "log")
    yield reader
    os.close(reader.fd)


@pytest.fixture
def handler(tmp_path: Path, reader: Reader) -> Iterator[FifoHandler]:
    handler = FifoHandler(str(tmp_path / "log"))
    yield handler
    os.close(handler._fd)


def test_lines_reach_whoever_reads(handler: FifoHandler, reader: Reader) -> None:
    for number in range(3):
        handler.emit(record(f"line {number}"))
    assert reader.lines() == ["line 0", "line 1", "line 2"]


def test_nobody_who_reads_means_no_error_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "unread")
    handler = FifoHandler(str(tmp_path / "unread"))
    try:
        for _ in range(100):
            handler.emit(record("x" * 1000))
    finally:
        os.close(handler._fd)


def test_lines_that_found_no_room_are_counted_and_told_later(handler: FifoHandler, reader: Reader) -> None:
    for _ in range(1000):
        handler.emit(record("x" * 999))
    kept = len(reader.lines())
    assert 0 < kept < 1000
    handler.emit(record("after"))
    handler.emit(record("later"))
    said, *rest = reader.lines()
    assert said == f'level=warning msg="{1000 - kept} lines of this log were lost: they were not read"'
    assert rest == ["after", "later"]


def test_a_line_too_long_to_be_written_whole_is_cut(handler: FifoHandler, reader: Reader) -> None:
    handler.emit(record("x" * 100_000))
    handler.emit(record("next"))
    first, second = reader.lines()
    assert len(first) < select.PIPE_BUF
    assert second == "next"
