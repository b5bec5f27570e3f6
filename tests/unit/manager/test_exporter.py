"""The exporter at its socket."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.unit.runtime.transfer.exports import KEY, files, make

from zeropod import paths
from zeropod.manager import exporter
from zeropod.manager.exporter import Exporter, listen, run
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.transfer import opening
from zeropod.runtime.transfer.errors import ProtocolError, Refused
from zeropod.runtime.transfer.fetch import Fetch

WITHIN = 60.0
"""Seconds."""


@asynccontextmanager
async def serving(directory: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Yield the socket's place."""
    monkeypatch.setattr(paths, "EXPORTS", directory / "exports")
    monkeypatch.setattr(paths, "PODS", directory / "pods")
    place = str(directory / "x/exports.sock")
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, Exporter(), listen(place))
            yield place
            nursery.cancel_scope.cancel()


async def test_a_container_goes_from_one_directory_to_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = files()
    async with serving(tmp_path, monkeypatch) as place, trio.open_nursery() as nursery:
        export = make(tmp_path / "exports", content)

        async def connect() -> trio.abc.Stream:
            stream = await trio.open_unix_socket(place)
            await opening.ask(stream, {"key": KEY})
            return stream

        fetch = Fetch(connect, tmp_path / "target")
        nursery.start_soon(fetch.run)
        await fetch.small_files()
        assert await fetch.commit() is Decision.GIVEN
        await fetch.complete()
        await fetch.done()
        assert not export.exists
    for name, expected in content.items():
        assert (tmp_path / "target" / name).read_bytes() == expected


async def test_what_is_gone_is_refused_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch) as place:
        make(tmp_path / "exports", {"images/x": b"x"})
        (tmp_path / "exports" / KEY / "images/x").write_bytes(b"longer")
        for key in (KEY, "5.nothing", "../../etc", "", None, 7, "a" * 3000):
            async with await trio.open_unix_socket(place) as stream:
                with pytest.raises(Refused) as refused:
                    await opening.ask(stream, {"key": key})
                assert refused.value.gone
        assert "has 6 bytes instead of 1" in await refusal(place, KEY)


async def refusal(place: str, key: str) -> str:
    async with await trio.open_unix_socket(place) as stream:
        with pytest.raises(Refused) as refused:
            await opening.ask(stream, {"key": key})
    return str(refused.value)


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{\n", b"x" * 5000, b'{"key": "1.a"}\nmore', b"[" * 4000 + b"\n"])
async def test_nonsense_is_refused_and_the_next_one_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, monkeypatch) as place:
        make(tmp_path / "exports", {"images/x": b"x"})
        async with await trio.open_unix_socket(place) as stream:
            await stream.send_all(line)
            assert await stream.receive_some() == b""
        async with await trio.open_unix_socket(place) as stream:
            await opening.ask(stream, {"key": KEY})
    assert "a client is refused" in caplog.text


async def test_clients_that_say_nothing_and_too_many_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "OPENING", 0.3)
    monkeypatch.setattr(exporter, "CLIENTS", 2)
    async with serving(tmp_path, monkeypatch) as place:
        silent = [await trio.open_unix_socket(place) for _ in range(2)]
        await trio.sleep(0.05)
        async with await trio.open_unix_socket(place) as stream:
            assert (await opening.receive_line(stream))["error"].startswith("2 transfers")
        for stream in silent:
            assert await stream.receive_some() == b""
            await stream.aclose()
        async with await trio.open_unix_socket(place) as stream:
            with pytest.raises(Refused, match="there is no export"):
                await opening.ask(stream, {"key": "1.x"})


async def test_the_socket_is_the_managers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):  # the second time in place of the first one
        async with serving(tmp_path, monkeypatch) as place:
            found = os.stat(place)
            assert stat.S_IMODE(found.st_mode) == (0o660 if os.geteuid() == 0 else 0o600)
            if os.geteuid() == 0:
                assert (found.st_uid, found.st_gid) == (0, paths.MANAGER_GROUP)


async def test_garbage_is_collected_but_not_what_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path, monkeypatch):
        kept, old = (make(tmp_path / "exports", {"images/x": b"x"}, key) for key in ("1.kept", "1.old"))
        (tmp_path / "pods").mkdir()
        made = Exporter(parked=0.001)
        await trio.sleep(0.01)
        made._served[kept.key] = 1
        made._began = 0.0
        assert [name for name, _ in made._collected()] == ["1.old"]
        assert kept.exists
        assert not old.exists


@pytest.mark.parametrize("line", [b"", b"{}", b'{"ok": 1}\n', b"null\n"])
async def test_an_answer_that_is_none_is_not_taken_for_one(line: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(line)
    await theirs.send_eof()
    with pytest.raises((ProtocolError, Refused)):
        await opening.ask(ours, {"key": "1.x"})


def test_its_flags_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        exporter.main(["--help"])
    assert "exports.sock" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        exporter.main(["--parked-days", "-1"])
    assert "not a number of days" in capsys.readouterr().err
