"""A transfer from end to end, with connections that break."""

import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from tests.unit.runtime.transfer.exports import KEY, Proxy, files, make

from zeropod.kernel.userfault import PAGE
from zeropod.runtime.exports import index_file, manifest
from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.exports.export import Export
from zeropod.runtime.memory.userfault.extents import Extent, Index
from zeropod.runtime.pager.journal import MISSING, OUTDATED
from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.transfer import fetch as module
from zeropod.runtime.transfer import zstd
from zeropod.runtime.transfer.errors import DecisionUnknown, Refused, SourceLost
from zeropod.runtime.transfer.fetch import Fetch
from zeropod.runtime.transfer.incoming import Incoming
from zeropod.runtime.transfer.protocol import (
    LARGEST_ANSWER,
    Answer,
    Commit,
    Data,
    Decided,
    Frames,
    Get,
    decode_answer,
    encode_answer,
    encode_request,
)
from zeropod.runtime.transfer.serve import serve

WITHIN = 60.0
"""Seconds."""


class Moving:
    def __init__(self, directory: Path, nursery: trio.Nursery, content: dict[str, bytes], patience: float) -> None:
        self.content = content
        self.export = make(directory / "exports", content)
        self.source = Proxy(self.export, nursery)
        self.target = directory / "target"
        self.fetch = Fetch(self.source.connect, self.target, patience=patience)

    def check(self) -> None:
        for name, expected in self.content.items():
            assert (self.target / name).read_bytes() == expected, name


@asynccontextmanager
async def moving(
    directory: Path, content: dict[str, bytes] | None = None, patience: float = 60.0
) -> AsyncIterator[Moving]:
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            made = Moving(directory, nursery, content or files(), patience)
            nursery.start_soon(made.fetch.run)
            yield made
            nursery.cancel_scope.cancel()


async def test_everything_arrives_is_committed_and_removed(tmp_path: Path) -> None:
    async with moving(tmp_path) as made:
        assert await made.fetch.manifest() == made.export.read()
        await made.fetch.small_files()
        for name in ("images/core-1.img", "images/empty.img", "index-1"):
            assert (made.target / name).read_bytes() == made.content[name]
        opened = made.fetch.pages_files()
        assert sorted(opened) == [2, 11]
        assert await made.fetch.commit() is Decision.GIVEN
        await made.fetch.complete()
        made.check()
        assert made.fetch.bytes_to_come == 0
        assert PIECE < made.fetch.bytes_received < 2 * PIECE, "zeroes and what compresses cost next to nothing"
        for file in opened.values():
            assert file.complete
            assert not file.damage()
            os.close(file.descriptor)
        assert made.export.exists
        await made.fetch.done()
        assert not made.export.exists


async def test_what_is_withdrawn_is_not_given(tmp_path: Path) -> None:
    async with moving(tmp_path) as made:
        made.export.decide(Decision.WITHDRAWN)
        assert await made.fetch.commit() is Decision.WITHDRAWN
        assert await made.fetch.state() is Decision.WITHDRAWN


async def test_connections_that_break_at_any_moment_cost_nothing_but_time(tmp_path: Path) -> None:
    chance = random.Random(3)
    async with moving(tmp_path, files(40)) as made:
        async with trio.open_nursery() as nursery:

            async def cut() -> None:
                while True:
                    await trio.sleep(chance.random() * 0.02)
                    if made.source.connections:
                        made.source.cut()

            nursery.start_soon(cut)
            assert await made.fetch.commit() is Decision.GIVEN
            await made.fetch.complete()
            nursery.cancel_scope.cancel()
        made.check()
        assert len(made.source.connections) > 2
        await made.fetch.done()


async def test_what_a_process_waits_for_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    async with moving(tmp_path, {"images/a": b"", "store/pages-1": os.urandom(60 * PIECE)}) as made:
        await made.fetch.manifest()
        opened = made.fetch.pages_files()[1]
        assert opened.presence
        mark = opened.presence.mark

        def marked(piece: int) -> None:
            asked.append(piece)
            mark(piece)

        monkeypatch.setattr(opened.presence, "mark", marked)
        made.fetch.limit({(1, piece) for piece in range(60)}, [(1, 50), (1, 51), (7, 0)])
        opened.presence.need(40, True)
        opened.presence.need(41, True)
        opened.presence.need(10_000, True)  # there is none
        await made.fetch.complete()
        made.check()
        os.close(opened.descriptor)
    late = module.GENTLE + 1
    assert max(asked.index(40), asked.index(41)) < late + 2
    assert max(asked.index(50), asked.index(51)) < late + 4
    assert sorted(asked) == sorted(set(asked)), "nothing comes twice"


async def test_what_no_index_refers_to_does_not_travel(tmp_path: Path) -> None:
    content = {"images/a": b"", "store/pages-1": os.urandom(30 * PIECE), "store/pages-2": os.urandom(PIECE + 1)}
    needed = {(1, 3), (1, 29), (2, 1)}
    async with moving(tmp_path, content) as made:
        await made.fetch.small_files()
        made.fetch.limit(needed)
        await made.fetch.complete()
        opened = made.fetch.pages_files()
        assert all(file.complete and not file.damage() for file in opened.values())
        for number, piece in needed:
            there = os.pread(opened[number].descriptor, PIECE, piece * PIECE)
            assert there == content[f"store/pages-{number}"][piece * PIECE :][:PIECE]
        assert made.fetch.bytes_received < 8 * PIECE, "and what was on its way"
        assert made.fetch.bytes_to_come == 0
        for file in opened.values():
            assert os.fstat(file.descriptor).st_size in (30 * PIECE, PIECE + 1)
            os.close(file.descriptor)


async def test_pages_that_are_out_of_date_travel_as_zeroes(tmp_path: Path) -> None:
    stored = os.urandom(3 * PIECE + PAGE)
    async with moving(tmp_path, {"images/a": b"", "index-1": b"", "store/pages-4": stored}) as made:
        states = bytearray([OUTDATED]) * (len(stored) // PAGE)
        live = (0, 7, 64, 65, 191, 192)
        for page in live:
            states[page] = MISSING
        index = Index([Extent(1 << 30, (1 << 30) + len(stored), 4, 0, bytes(states))])
        index_file.write(made.export.directory / "index-1", index)
        found = manifest.read(made.export.directory / manifest.FILE)
        files = {**found.files, "index-1": (made.export.directory / "index-1").stat().st_size}
        (made.export.directory / manifest.FILE).write_bytes(replace(found, files=files).encode())
        await made.fetch.complete()
        arrived = (made.target / "store/pages-4").read_bytes()
        expected = bytearray(len(stored))
        for page in live:
            expected[page * PAGE : (page + 1) * PAGE] = stored[page * PAGE : (page + 1) * PAGE]
        assert arrived == expected
        if zstd.available():
            assert made.fetch.bytes_received < (len(live) + 2) * PAGE
        assert (made.export.store / "pages-4").read_bytes() == stored


async def test_a_source_that_has_it_no_more_is_lost_at_once(tmp_path: Path) -> None:
    async with moving(tmp_path) as made:
        await made.fetch.manifest()

        async def refuse() -> None:
            raise Refused("it was removed", gone=True)

        made.source.before = refuse
        made.source.cut()
        with pytest.raises(SourceLost, match="no more: it was removed"):
            await made.fetch.state()
        assert "it was removed" in made.fetch.failure


async def test_a_source_that_cannot_be_reached_is_lost_in_the_end(tmp_path: Path) -> None:
    async with moving(tmp_path, patience=0.3) as made:

        async def refuse() -> None:
            raise ConnectionRefusedError("nothing listens")

        made.source.before = refuse
        with pytest.raises(SourceLost, match="nothing listens"):
            await made.fetch.manifest()


async def test_a_commit_that_was_not_sent_is_not_unknown(tmp_path: Path) -> None:
    async with moving(tmp_path) as made:

        async def refuse() -> None:
            raise ConnectionRefusedError("nothing listens")

        made.source.before = refuse
        with pytest.raises(SourceLost):
            await made.fetch.commit(within=0.2)
        made.source.before = trio.lowlevel.checkpoint
        await made.fetch.small_files()
        assert made.export.decided is None, "nor is it sent later"


async def test_a_commit_without_an_answer_is_unknown_until_the_state_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moving(tmp_path) as made:
        await made.fetch.small_files()
        decide = Export.decide

        async def refuse() -> None:
            raise ConnectionRefusedError("nothing listens")

        def decide_and_break(export: Export, decision: Decision) -> Decision:
            made.source.before = refuse
            made.source.cut()
            return decide(export, decision)

        monkeypatch.setattr(Export, "decide", decide_and_break)
        with pytest.raises(DecisionUnknown):
            await made.fetch.commit(within=0.3)
        made.source.before = trio.lowlevel.checkpoint
        assert await made.fetch.state() is Decision.GIVEN


async def test_a_commit_whose_answer_was_lost_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with moving(tmp_path) as made:
        await made.fetch.small_files()
        decide, cuts = Export.decide, 0

        def decide_and_break(export: Export, decision: Decision) -> Decision:
            nonlocal cuts
            if cuts < 3:
                cuts += 1
                made.source.cut()
            return decide(export, decision)

        monkeypatch.setattr(Export, "decide", decide_and_break)
        assert await made.fetch.commit() is Decision.GIVEN
        assert cuts == 3


async def test_pieces_that_arrive_damaged_are_asked_for_again_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = Incoming.store
    damaged = 2

    def store(self: Incoming, data: Data) -> bool:
        nonlocal damaged
        if data.offset and damaged:
            damaged -= 1
            return False
        return digest(self, data)

    monkeypatch.setattr(Incoming, "store", store)
    async with moving(tmp_path) as made:
        await made.fetch.complete()
        made.check()
    damaged = 1000
    async with moving(tmp_path / "again") as made:
        with pytest.raises(SourceLost, match="damaged"):
            await made.fetch.complete()


async def test_what_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "target" / "images").mkdir(parents=True)
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "target" / "images" / "core-1.img").symlink_to(tmp_path / "outside")
    async with moving(tmp_path) as made:
        with pytest.raises(SourceLost, match="cannot be taken"):
            await made.fetch.manifest()
    assert (tmp_path / "outside").read_text() == "mine"


@pytest.mark.parametrize("change", [("images/core-1.img", "../../escape"), ('"format"', '"x"'), ("{", "[")])
async def test_a_manifest_that_is_none_is_refused(tmp_path: Path, change: tuple[str, str]) -> None:
    async with moving(tmp_path) as made:
        file = made.export.directory / manifest.FILE
        file.write_text(file.read_text().replace(*change))
        with pytest.raises(SourceLost, match="cannot be taken"):
            await made.fetch.manifest()
    assert not made.target.exists()
    assert os.listdir(tmp_path) == ["exports"]
    assert os.listdir(tmp_path / "exports") == [KEY]


async def test_a_source_that_cannot_read_its_files_is_lost_with_the_reason(tmp_path: Path) -> None:
    async with moving(tmp_path) as made:
        (made.export.directory / "index-1").unlink()
        with pytest.raises(SourceLost, match="cannot read its own"):
            await made.fetch.small_files()


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\1Z", encode_answer(Decided(Decision.GIVEN))]
)
async def test_a_source_that_talks_nonsense_ends_a_connection_and_no_more(tmp_path: Path, noise: bytes) -> None:
    sent: list[bytes] = []

    async def connect() -> trio.abc.Stream:
        if len(sent) < 2:
            sent.append(noise)
            ours, theirs = trio.testing.memory_stream_pair()
            await theirs.send_all(noise)
            return ours
        return await made.source.connect()

    async with moving(tmp_path) as made:
        made.fetch._connect = connect
        await made.fetch.complete()
        made.check()
    assert len(sent) == 2


async def test_a_connection_without_a_sign_of_life_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALLED", 0.05)
    silent: list[trio.abc.Stream] = []

    async def connect() -> trio.abc.Stream:
        if not silent:
            ours, theirs = trio.testing.memory_stream_pair()
            silent.append(theirs)
            return ours
        return await made.source.connect()

    async with moving(tmp_path) as made:
        made.fetch._connect = connect
        await made.fetch.complete()
        await trio.sleep(0.2)  # nothing is asked for, which is not silence
        assert not made.fetch.failure
        assert len(made.source.connections) == 1


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", b"\0\0\0\1Z", b"\0\0\0\2cx", b"\0\0\0\x11g" + b"\xff" * 16, b"\0\0\0\5g"]
)
async def test_a_client_that_talks_nonsense_is_refused(
    tmp_path: Path, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    export = make(tmp_path, files())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, export)
        await ours.send_all(noise)
        await ours.send_eof()
    assert "its client is refused" in caplog.text
    assert export.decided is None


async def test_parts_beyond_a_file_are_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    export = make(tmp_path, files())
    answers: list[Answer] = []
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs, export)
            for request in (Get(99, 0, 1), Get(0, 1 << 30, 1), Get(0, 0, PIECE), Commit()):
                await ours.send_all(encode_request(request))
            await ours.send_eof()
            frames = Frames(LARGEST_ANSWER)
            while len(answers) < 4:
                answers += [decode_answer(frame) for frame in frames.feed(await ours.receive_some(1 << 20))]
    assert [type(answer).__name__ for answer in answers] == ["Error", "Error", "Error", "Decided"]
