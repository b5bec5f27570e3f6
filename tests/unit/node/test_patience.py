"""One factor makes every limit of time longer."""

import pytest
from tests.integration import patience


@pytest.mark.parametrize(
    ("text", "longer"), [("300ms", "6000ms"), ("1s", "20s"), ("2m", "40m"), ("0", "0"), ("no", "no")]
)
def test_durations_become_longer_and_all_else_stays(text: str, longer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FACTOR", 20.0)
    assert patience.patient_duration(text) == longer


def test_nothing_changes_where_nothing_is_said() -> None:
    assert patience.patient(3) == 3
    assert patience.patient_duration("300ms") == "300ms"
