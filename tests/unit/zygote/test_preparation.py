"""What the zygote tells of the steps that it has taken."""

import logging
from collections.abc import Callable

import pytest

from zeropod.zygote import preparation


def step(taken: list[str], name: str) -> Callable[[], None]:
    return lambda: taken.append(name)


def fail() -> None:
    raise ExceptionGroup("in a nursery", [ValueError("no such thing"), OSError("nor this")])


def test_a_step_that_fails_is_told_and_the_others_are_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []
    steps = {"first": step(taken, "first"), "second": fail, "third": step(taken, "third")}
    monkeypatch.setattr(preparation, "STEPS", steps)
    report = preparation.prepare()
    assert taken == ["first", "third"]
    assert not caplog.records  # the log is there only later
    with caplog.at_level(logging.INFO):
        report()
    warning, summary = caplog.records
    assert warning.levelno == logging.WARNING
    assert warning.getMessage() == (
        "the zygote goes without 'second', shims may take more memory: ValueError: no such thing; OSError: nor this"
    )
    assert summary.getMessage().startswith("the zygote is prepared: 2 of 3 steps taken in ")
