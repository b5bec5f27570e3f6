"""What of a suite's results counts as worse than the reference's."""

import json

from tests.conformance.results import Result, counts, read, worse


def results(**states: str) -> dict[str, Result]:
    return {name: Result(state, 1.0, "words") for name, state in states.items()}


def test_what_passes_with_the_reference_has_to_pass() -> None:
    reference = results(a="passed", b="passed", c="passed", d="passed", e="passed")
    ours = results(a="passed", b="failed", c="skipped", d="timedout")
    assert worse(ours, reference) == {
        "b": "failed: words",
        "c": "skipped: words",
        "d": "timedout: words",
        "e": "is missing",
    }


def test_what_fails_with_the_reference_may_fail_but_has_to_run() -> None:
    assert worse(results(a="failed", b="passed"), results(a="failed", b="failed")) == {}
    assert worse(results(a="skipped"), results(a="failed")) == {"a": "skipped: words"}


def test_what_the_reference_skips_is_not_asked_for() -> None:
    assert worse(results(a="failed"), results(a="skipped", b="skipped")) == {"b": "is missing"}


def test_a_report_is_read_by_the_full_names_of_its_tests() -> None:
    spec = {"LeafNodeType": "It", "ContainerHierarchyTexts": ["Pods", "asleep"], "LeafNodeText": "run", "RunTime": 2e9}
    failed = spec | {"LeafNodeText": "end", "State": "failed", "Failure": {"Message": "did not"}}
    before = spec | {"LeafNodeType": "BeforeSuite", "State": "passed"}
    found = read(json.dumps([{"SpecReports": [before, spec | {"State": "passed"}, failed]}]))
    assert found == {"Pods asleep run": Result("passed", 2.0, ""), "Pods asleep end": Result("failed", 2.0, "did not")}
    assert counts(found) == "1 passed, 1 failed"
