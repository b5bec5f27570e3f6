"""The words of each reason, and what to do about it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.lifecycle.reasons import KNOWN_MESSAGES, Explanation, Reason, table
from zeropod.lifecycle.strategy import NotIdle


def test_details_have_their_places_in_the_words() -> None:
    assert Reason.EXEC.because("7") == Explanation(Reason.EXEC, "exec 7 is running", Reason.EXEC.remedy)
    assert str(Reason.TOO_RESIDENT.because("130 MiB", "64 MiB")) == (
        "130 MiB stay in memory, standby-max-resident is 64 MiB"
    )


@pytest.mark.parametrize("reason", Reason)
def test_no_two_reasons_are_the_same_and_every_one_can_be_said(reason: Reason) -> None:
    assert [other for other in Reason if other.text == reason.text != "{0}"] in ([reason], [])
    places = len(set(re.findall(r"\{\d", reason.text)))
    assert "{" not in reason.because(*[1.0] * places).text


@pytest.mark.parametrize(("words", "remedy"), KNOWN_MESSAGES)
def test_words_of_others_say_more_than_the_reason_that_they_stand_in(words: str, remedy: str) -> None:
    assert Reason.DUMP_FAILED.because(f"CRIU said: {words}: no").remedy == remedy
    assert Reason.DUMP_FAILED.because("CRIU said: no").remedy == Reason.DUMP_FAILED.remedy


def test_the_remedy_of_a_reason_within_a_reason_goes_first() -> None:
    inner = Reason.NOT_YET_TAKEN.because()
    for detail in (inner, NotIdle(inner)):
        explained = Reason.NO_COLD.because(detail)
        assert (explained.text, explained.remedy) == (f"stays in STANDBY: {inner}", inner.remedy)
    assert Reason.NO_COLD.because(NotIdle(Reason.ENDING.because())).remedy == Reason.NO_COLD.remedy


@given(st.sampled_from(Reason), st.text(), st.floats(0, 1e9), st.text())
def test_no_detail_can_break_the_words(reason: Reason, first: str, second: float, third: str) -> None:
    assert isinstance(reason.because(first, second, third).text, str)


def test_the_table_has_a_row_for_everything_with_something_to_do() -> None:
    rows = table()
    assert all(reason.remedy in rows for reason in Reason if reason.remedy)
    assert "| exec … is running |" in rows
    assert "{" not in rows
