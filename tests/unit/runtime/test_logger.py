"""Loggers of users, which are shell scripts here."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from zeropod.runtime import logger as module
from zeropod.runtime.errors import StdioError
from zeropod.runtime.logger import Logger
from zeropod.runtime.stdio import ProcessIO, Stdio


class Scripts:
    def __init__(self, place: Path) -> None:
        self.place = place

    def write(self, text: str) -> str:
        path = self.place / "logger"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return f"binary://{path}"

    def read(self, name: str) -> str:
        return (self.place / name).read_text()


@pytest.fixture
def scripts(tmp_path: Path) -> Iterator[Scripts]:
    yield Scripts(tmp_path)
    all_ended()


def all_ended() -> None:
    """Waits for all children; the shim's sweep for orphans reaps them otherwise."""
    with suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)


async def test_a_logger_reads_the_output_and_the_errors(scripts: Scripts) -> None:
    place = scripts.place
    io = ProcessIO(Stdio(stdout=scripts.write(f"exec 5>&-; cat <&4 >{place}/err & cat <&3 >{place}/out; wait")))
    io.open_pipes(os.getuid(), os.getgid())
    await io.start_logger("web", "k8s.io")
    assert io.streams.stdout is not None
    assert io.streams.stderr is not None
    os.write(io.streams.stdout, b"hello\n")
    os.write(io.streams.stderr, b"oh no\n")
    io.process_exited()
    await io.drained.wait()
    io.close()
    all_ended()
    assert (scripts.read("out"), scripts.read("err")) == ("hello\n", "oh no\n")


async def test_a_logger_is_told_about_its_container(scripts: Scripts) -> None:
    place = scripts.place
    target = scripts.write(f'echo "$CONTAINER_ID $CONTAINER_NAMESPACE" "$@" >{place}/told; exec 5>&-')
    io = ProcessIO(Stdio(stdout=f"{target}?level=debug&path=/var/log/a%20b"))
    io.open_pipes(os.getuid(), os.getgid())
    await io.start_logger("web", "k8s.io")
    io.close()
    assert scripts.read("told") == "web k8s.io level debug path /var/log/a b\n"


async def test_a_logger_gets_three_descriptors_and_no_others_of_the_shims(scripts: Scripts) -> None:
    place = scripts.place
    io = ProcessIO(Stdio(stdout=scripts.write(f"readlink /proc/$$/fd/* >{place}/listing; exec 5>&-")))
    io.open_pipes(os.getuid(), os.getgid())
    own = [os.readlink(f"/proc/self/fd/{descriptor}") for descriptor in sorted(io._open)]
    await io.start_logger("web", "k8s.io")
    io.close()
    inherited = [link for link in scripts.read("listing").split() if link in own]
    assert len(inherited) == 2


@pytest.mark.parametrize("target", ["binary:///nonexistent/logger", "binary:///etc/passwd"])
async def test_a_logger_that_cannot_be_started_is_named(target: str) -> None:
    before = os.listdir("/proc/self/fd")
    io = ProcessIO(Stdio(stdout=target))
    io.open_pipes(os.getuid(), os.getgid())
    with pytest.raises(StdioError, match=f"cannot start the logger {target.removeprefix('binary://')}: "):
        await io.start_logger("web", "k8s.io")
    io.close()
    assert os.listdir("/proc/self/fd") == before


async def test_a_logger_that_never_gets_ready_is_named(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START", 0.05)
    io = ProcessIO(Stdio(stdout=scripts.write("cat <&3")))
    io.open_pipes(os.getuid(), os.getgid())
    with pytest.raises(StdioError, match=r"logger was not ready within 0\.05 s"):
        await io.start_logger("web", "k8s.io")
    io.close()


async def test_many_loggers_may_start_at_once(scripts: Scripts, nursery: trio.Nursery) -> None:
    target = scripts.write(f"exec 5>&-; cat <&3 >{scripts.place}/$CONTAINER_ID")
    ends = []
    async with trio.open_nursery() as starting:
        for number in range(5):
            reading, writing = os.pipe()
            ends.append((reading, writing))
            starting.start_soon(Logger(target, reading, reading).start, str(number), "k8s.io")
    for number, (reading, writing) in enumerate(ends):
        os.write(writing, str(number).encode())
        os.close(reading)
        os.close(writing)
    all_ended()
    assert [scripts.read(str(number)) for number in range(5)] == list("01234")
