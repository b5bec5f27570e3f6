"""The frame codec, fed in every way a stream can be cut."""

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropod.rpc.frames import MAX_MESSAGE, Decoder, Frame, FrameType, Oversized, ProtocolError, encode

frames = st.builds(
    Frame,
    stream=st.integers(0, 2**32 - 1),
    type=st.integers(0, 255),
    payload=st.binary(max_size=200),
    flags=st.integers(0, 255),
)


def header(length: int, stream: int = 1, kind: int = FrameType.REQUEST, flags: int = 0) -> bytes:
    return length.to_bytes(4, "big") + stream.to_bytes(4, "big") + bytes([kind, flags])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(borders)]


def test_a_frame_has_the_bytes_that_containerd_expects() -> None:
    assert encode(Frame(0x01020304, FrameType.RESPONSE, b"ab", flags=4)) == b"\0\0\0\2\1\2\3\4\2\4ab"


@given(st.lists(frames, max_size=5), st.lists(st.integers(0, 10_000)))
def test_a_frame_split_anywhere_decodes_the_same(sent: list[Frame], places: list[int]) -> None:
    decoder = Decoder()
    pieces = cut(b"".join(map(encode, sent)), places)
    assert [frame for piece in pieces for frame in decoder.feed(piece)] == sent
    decoder.end()


@given(st.lists(st.binary(max_size=64)))
def test_no_bytes_make_the_decoder_raise_but_a_protocol_error_at_the_end(pieces: list[bytes]) -> None:
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)
    with suppress(ProtocolError):
        decoder.end()


@given(frames, st.integers(1, 9))
def test_an_end_inside_a_frame_is_an_error(frame: Frame, missing: int) -> None:
    decoder = Decoder()
    assert decoder.feed(encode(frame)[:-missing]) == []
    with pytest.raises(ProtocolError, match="bytes into a frame"):
        decoder.end()


def test_the_longest_message_is_accepted() -> None:
    longest = Frame(1, FrameType.REQUEST, bytes(MAX_MESSAGE))
    assert Decoder().feed(encode(longest)) == [longest]


def test_a_message_of_4_mib_and_one_byte_is_not_encoded() -> None:
    with pytest.raises(ProtocolError, match="4194305 exceeds"):
        encode(Frame(1, FrameType.RESPONSE, bytes(MAX_MESSAGE + 1)))


@settings(max_examples=20)
@given(st.integers(50_000, 5_000_000), frames)
def test_an_oversized_message_is_skipped_and_the_next_frame_read(step: int, after: Frame) -> None:
    length = MAX_MESSAGE + 1
    data = header(length, stream=5) + bytes(length) + encode(after)
    decoder = Decoder()
    events = [event for i in range(0, len(data), step) for event in decoder.feed(data[i : i + step])]
    assert events == [Oversized(5, FrameType.REQUEST, length), after]
    decoder.end()


def test_an_oversized_message_is_not_kept_while_it_is_skipped() -> None:
    decoder = Decoder()
    decoder.feed(header(2**32 - 1))
    for _ in range(64):
        decoder.feed(bytes(1 << 16))
    assert len(decoder._buffer) == 0
    with pytest.raises(ProtocolError, match="before the end of an oversized frame"):
        decoder.end()
