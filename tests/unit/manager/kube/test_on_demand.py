"""Who wants a container to sleep or wake, and that each request is carried out once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.manager.kube.on_demand import (
    AnnotationError,
    Outcome,
    Request,
    Source,
    Wanted,
    from_annotation,
    outcome_of,
    pending,
    record,
    standing,
    wanted_of,
)
from zeropod.rpc.status import Code

ASLEEP = Request(Source.SPEC, Wanted.ASLEEP)
AGAIN = Request(Source.SPEC, Wanted.ASLEEP, "2026-01-01T00:00:00Z")
AWAKE = Request(Source.ANNOTATION, Wanted.AWAKE)
NAMES = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)


def done(request: Request) -> dict[str, Any]:
    return record(request, Outcome.DONE, "", "2026-01-01T00:00:01Z")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        (" Asleep ", {"": Wanted.ASLEEP}),
        ("web=Asleep", {"web": Wanted.ASLEEP}),
        ("web = Asleep; db=Awake;", {"web": Wanted.ASLEEP, "db": Wanted.AWAKE}),
    ],
)
def test_what_an_annotation_may_be(text: str, found: dict[str, Wanted]) -> None:
    assert from_annotation(text) == found


@pytest.mark.parametrize("text", ["asleep", "web", "web=", "=Asleep", "web=Asleep;;db=Awake", "web=Asleep,db=Awake"])
def test_what_it_may_not_be(text: str) -> None:
    with pytest.raises(AnnotationError, match=r"zeropod\.ctrox\.dev/wanted"):
        from_annotation(text)


@given(st.text(max_size=300))
def test_no_annotation_does_more_than_fail(text: str) -> None:
    try:
        found = from_annotation(text)
    except AnnotationError as error:
        assert len(str(error)) < 1024  # noqa: PT017 - both ways are right
    else:
        assert all(isinstance(each, Wanted) for each in found.values())


@given(st.dictionaries(NAMES, st.sampled_from(Wanted), min_size=1))
def test_an_annotation_is_read_as_it_is_written(wanted: dict[str, Wanted]) -> None:
    assert from_annotation(";".join(f"{name}={each}" for name, each in wanted.items())) == wanted


def test_both_sources_count_each_for_itself() -> None:
    spec = {"containers": [{"name": "db", "wanted": "Awake"}, {"name": "web", "wanted": "Asleep"}]}
    assert wanted_of("web", spec, {"": Wanted.AWAKE}) == [ASLEEP, AWAKE]
    assert wanted_of("web", {}, {"db": Wanted.AWAKE}) == []


def test_a_request_is_carried_out_once() -> None:
    assert pending([ASLEEP, AWAKE], [done(ASLEEP)]) == [AWAKE]
    assert pending([ASLEEP, AWAKE], [done(ASLEEP), done(AWAKE)]) == []


def test_another_time_is_another_request() -> None:
    assert pending([AGAIN], [done(ASLEEP)]) == [AGAIN]


def test_what_is_taken_away_is_forgotten() -> None:
    assert standing([AWAKE], [done(ASLEEP), done(AWAKE)]) == [done(AWAKE)]


def test_one_record_for_a_source() -> None:
    assert standing([ASLEEP], [done(ASLEEP), {**done(ASLEEP), "outcome": "Refused"}]) == [done(ASLEEP)]


def test_a_refusal_is_none_of_a_shim_that_is_gone() -> None:
    assert outcome_of(Code.FAILED_PRECONDITION) is Outcome.REFUSED
    assert {outcome_of(Code.UNAVAILABLE), outcome_of(Code.DEADLINE_EXCEEDED)} == {Outcome.FAILED}
