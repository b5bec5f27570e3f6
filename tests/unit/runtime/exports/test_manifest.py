"""Manifests: what is written is read as it was; what comes from elsewhere is refused in words unless it is right."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.kernel import socket_options
from zeropod.kernel.socket_options import Group
from zeropod.kernel.task_attributes import Attributes
from zeropod.runtime.exports import manifest
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.manifest import Manifest, Needs, Source
from zeropod.runtime.image.reapplied import Noted

OPTION = min(socket_options.KNOWN, key=lambda option: option.name)
NOTED = Noted(
    threads={1: {1: Attributes(frozenset({0, 1}), 0, 50000), 9: Attributes(frozenset({1}), 3 << 13, 0)}},
    core_filters={1: "00000033"},
    options={1: {5: [(OPTION, b"\1\0\0\0")]}},
    groups={1: {6: [Group(2, "239.1.2.3"), Group(2, "ff02::1234")]}},
)
WHOLE = Manifest(
    source=Source("node-1", "default", "web-0", "uid-1", "web", "k8s.io", "abc", "sha256:0"),
    needs=Needs("x86_64", "6.18", "4.2", ("avx", "sse2"), 4096),
    asleep=True,
    carried={1: "index-1", 7: "index-7"},
    noted=NOTED,
    working_set=((1, 4096, 2), (7, 8192, -3)),
    memory_needed=1 << 30,
    files={"images/core-1.img": 5, "store/pages-3": 4096, "index-1": 40, "index-7": 40, "upper.tar": 10240},
    data=True,
    made_at=1,
)


def changed(**members: Any) -> bytes:
    return json.dumps({**json.loads(WHOLE.encode()), **members}).encode()


def test_what_is_written_is_read_as_it_was() -> None:
    assert manifest.decode(WHOLE.encode()) == WHOLE
    assert WHOLE.stored == {3: 4096}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"{}", "has no format"),
        (changed(format=2), "has format 2, this version knows 1"),
        (changed(format=True), "format of it is not a whole number"),
        (changed(asleep=1), "asleep of it is neither true nor false"),
        (changed(source=[]), "source of it is not an object"),
        (changed(files={"../../etc/shadow": 1}), "has no business in files"),
        (changed(files={"images/..": 1}), "has no business in files"),
        (changed(files={"images/a/b": 1}), "has no business in files"),
        (changed(files={"store/pages-0": 1}), "has no business in files"),
        (changed(files={"decision": 1}), "has no business in files"),
        (changed(files={"images/a.img": -1}), "not a whole number"),
        (changed(files={"images/a.img": 1 << 64}), "not a whole number"),
        (changed(files={"images/a.img": 1.0}), "not a whole number"),
        (changed(carried={"1": "upper.tar"}), "index of process 1 is not among its files"),
        (changed(carried={"01": "index-1"}), "has no business in carried"),
        (changed(carried={"1": "index-1"}), "has an index of a process without memory"),
        (changed(data=False), "root file system is not what it has"),
        (changed(files={"upper.tar": 1}, carried={}), "has no image"),
        (changed(working_set=[[1, 2]]), "has not three parts"),
        (changed(working_set=[[1, 2, 99]]), "has no standing"),
        (changed(working_set=[[1, 2, 3]] * 5000), "working set is too large"),
        (changed(noted={"threads": {"x": {}}}), "has no business in threads"),
    ],
)
def test_what_is_wrong_is_said(content: bytes, words: str) -> None:
    with pytest.raises(BadExport, match=words):
        manifest.decode(content)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"options": {"1": {"5": [["SO_EVIL", 1, 2, "AAAA"]]}}}, "'SO_EVIL' is not an option that is set again"),
        ({"options": {"1": {"5": [[OPTION.name, OPTION.level, OPTION.number, "!"]]}}}, "is not base64"),
        ({"options": {"1": {"5": [[OPTION.name, OPTION.level, OPTION.number, "A" * 64]]}}}, "is too long"),
        ({"groups": {"1": {"5": [[1, "10.0.0.1"]]}}}, "is not a multicast address"),
        ({"groups": {"1": {"5": [[1, "nowhere"]]}}}, "is not an address"),
        ({"core_filters": {"1": "0x33; rm"}}, "is not a core dump filter"),
        ({"threads": {"1": {"1": [[], 0, 0]}}}, "is bound to no processor"),
        ({"threads": {"1": {"1": [[0], 0]}}}, "has not 3 parts"),
    ],
)
def test_what_is_to_be_set_again_is_only_what_would_have_been_noted(part: dict[str, Any], words: str) -> None:
    noted = {"threads": {}, "core_filters": {}, "options": {}, "groups": {}, **part}
    with pytest.raises(BadExport, match=words):
        manifest.decode(changed(noted=noted))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(json.loads(WHOLE.encode()))), JSON)
def test_anything_in_the_place_of_a_member_is_refused_in_words_or_right(key: str, value: Any) -> None:
    with suppress(BadExport):  # nothing else comes out
        assert isinstance(manifest.decode(changed(**{key: value})), Manifest)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(BadExport):
        manifest.decode(content)


@pytest.mark.parametrize(
    ("has", "words"),
    [
        (Needs("x86_64", "6.1", "4.2", ("avx", "sse2", "more"), 4096), ""),
        (Needs("aarch64", "6.18", "4.2", ("avx", "sse2"), 4096), "comes from a node with x86_64"),
        (Needs("x86_64", "6.18", "4.2", ("sse2",), 4096), "processors lack avx"),
        (Needs("x86_64", "6.18", "4.2", ("avx", "sse2"), 16384), "pages of 4096 bytes"),
    ],
)
def test_a_node_that_lacks_something_is_told_what(has: Needs, words: str) -> None:
    against = WHOLE.needs.against(has)
    assert words in against
    assert bool(words) == bool(against)
