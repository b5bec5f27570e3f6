"""The frames of a transfer, against what another end may send."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as some

from zeropod.runtime.exports.decision import Decision
from zeropod.runtime.pager.presence import PIECE
from zeropod.runtime.transfer.errors import ProtocolError
from zeropod.runtime.transfer.protocol import (
    DIGEST,
    LARGEST_ANSWER,
    LARGEST_OFFSET,
    LARGEST_REQUEST,
    LARGEST_TEXT,
    Answer,
    Coding,
    Commit,
    Data,
    Decided,
    Done,
    Error,
    Failed,
    Frames,
    Get,
    GetManifest,
    Manifest,
    Request,
    State,
    Taken,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

lengths = some.integers(1, PIECE)
offsets = some.integers(0, LARGEST_OFFSET - PIECE)
numbers = some.integers(0, (1 << 32) - 1)
texts = some.text(some.characters(codec="utf-8"), max_size=200)
gets = some.builds(Get, numbers, offsets, lengths)
requests = some.one_of(gets, some.builds(Failed, texts), some.sampled_from([GetManifest(), Commit(), State(), Done()]))


@some.composite
def pieces(draw: some.DrawFn) -> Data:
    payload = draw(some.binary(max_size=300))
    length = draw(some.integers(len(payload) + 1, PIECE))
    coding = Coding.ZSTD if payload else Coding.ZEROES
    if draw(some.booleans()) and payload:
        coding, length = Coding.RAW, len(payload)
    digest = draw(some.binary(min_size=DIGEST, max_size=DIGEST))
    return Data(draw(numbers), draw(offsets), length, coding, digest, payload)


answers = some.one_of(
    pieces(),
    some.builds(Manifest, some.binary(max_size=500)),
    some.builds(Decided, some.sampled_from([*Decision, None])),
    some.builds(Error, texts),
    some.just(Taken()),
)


@given(some.lists(requests, max_size=8), some.lists(some.integers(1, 40), min_size=1))
def test_requests_arrive_in_whatever_parts(sent: list[Request], cuts: list[int]) -> None:
    data, frames, received = b"".join(map(encode_request, sent)), Frames(LARGEST_REQUEST), list[Request]()
    for number in range(len(data)):
        part, data = data[: (cut := cuts[number % len(cuts)])], data[cut:]
        received += map(decode_request, frames.feed(part))
    assert received == sent
    assert not frames.cut


@given(some.lists(answers, max_size=8))
def test_answers_arrive(sent: list[Answer]) -> None:
    frames = Frames(LARGEST_ANSWER)
    assert list(map(decode_answer, frames.feed(b"".join(map(encode_answer, sent))))) == sent


@given(some.binary(min_size=1, max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with suppress(ProtocolError):
        request = decode_request(data)
        assert isinstance(request, Failed) or encode_request(request)[4:] == data  # a reason need not be UTF-8


@given(some.binary(min_size=1, max_size=200))
def test_any_bytes_are_an_answer_or_refused(data: bytes) -> None:
    with suppress(ProtocolError):
        answer = decode_answer(data)
        assert isinstance(answer, Error) or encode_answer(answer)[4:] == data


@given(answers)
def test_a_frame_with_a_byte_less_or_more_is_refused_or_other_content(answer: Answer) -> None:
    frame = encode_answer(answer)[4:]
    for wrong in (frame[:-1], frame + b"x"):
        if not wrong:
            continue
        with suppress(ProtocolError):
            assert decode_answer(wrong) != answer


@pytest.mark.parametrize("length", [0, LARGEST_ANSWER + 1, 0xFFFFFFFF])
def test_a_length_is_refused_before_anything_is_kept(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {length} bytes"):
        list(Frames(LARGEST_ANSWER).feed(length.to_bytes(4, "big")))


def test_the_end_in_the_middle_of_a_frame_shows() -> None:
    frames = Frames(LARGEST_REQUEST)
    assert not list(frames.feed(encode_request(Commit())[:-1]))
    assert frames.cut


@pytest.mark.parametrize(
    "request_",
    [Get(1, 0, 0), Get(1, 0, PIECE + 1), Get(1, LARGEST_OFFSET, 1), Get(1, (1 << 64) - 1, 1)],
)
def test_parts_of_files_have_limits(request_: Get) -> None:
    with pytest.raises(ProtocolError, match="a part of a file"):
        decode_request(encode_request(request_)[4:])


@pytest.mark.parametrize(
    "data",
    [
        Data(1, 0, PIECE, Coding.RAW, bytes(DIGEST), b"short"),
        Data(1, 0, 5, Coding.ZSTD, bytes(DIGEST), b"longer"),
        Data(1, 0, 5, Coding.ZSTD, bytes(DIGEST), b""),
        Data(1, 0, 5, Coding.ZEROES, bytes(DIGEST), b"x"),
        Data(1, 0, PIECE + 1, Coding.ZEROES, bytes(DIGEST), b""),
    ],
)
def test_data_that_is_not_what_it_says_is_refused(data: Data) -> None:
    with pytest.raises(ProtocolError):
        decode_answer(encode_answer(data)[4:])


def test_long_reasons_are_cut_and_longer_ones_refused() -> None:
    cut = decode_answer(encode_answer(Error("x" * 10000))[4:])
    assert isinstance(cut, Error)
    assert len(cut.text) == LARGEST_TEXT
    with pytest.raises(ProtocolError, match="a reason of"):
        decode_answer(b"E" + b"x" * (LARGEST_TEXT + 1))
