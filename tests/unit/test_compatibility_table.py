"""What the compatibility suite has seen becomes rows of docs/compatibility.md."""

import importlib.util
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compatibility.py"

spec = importlib.util.spec_from_file_location("compatibility", PAGE)
assert spec is not None
assert spec.loader is not None
compatibility = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compatibility)


def seen(depth: str, **more: Any) -> dict[str, Any]:
    usual = {
        "application": "redis",
        "machine": False,
        "emulated": False,
        "note": "",
        "sleeps": True,
        "wakes": True,
        "connection": True,
        "image": 3 << 20,
        "wake_ms": 1.25,
        "why": "",
    }
    return usual | {"depth": depth} | more


def row(*every: dict[str, Any]) -> str:
    return str(compatibility.row("redis", list(every)))


def test_what_sleeps_and_wakes() -> None:
    assert (
        row(seen("STANDBY"), seen("COLD", wake_ms=120.4))
        == "| redis | yes | yes | yes | 3.0 MiB | 1.2 ms / 120 ms |  |"
    )


def test_what_stays_awake_says_why() -> None:
    awake = {"sleeps": False, "wakes": False, "connection": False, "image": 0, "why": "it uses io_uring"}
    assert (
        row(seen("STANDBY", **awake), seen("COLD", **awake)) == "| redis | no | no | - | - | - | *it uses io_uring* |"
    )


def test_a_machine_counts_and_real_hardware_gives_the_time() -> None:
    machine = {"machine": True, "emulated": True, "wake_ms": 40.0}
    both = row(seen("STANDBY"), seen("STANDBY", **machine), seen("COLD"), seen("COLD", **machine, wakes=False))
    assert both == "| redis | yes | no | yes | 3.0 MiB | 1.2 ms / 1.2 ms |  |"
    assert "| *40 ms* / - |" in row(seen("STANDBY", **machine))


def test_an_application_that_was_not_seen_again_keeps_its_row() -> None:
    rows = compatibility.rows([seen("COLD")], "| application | x |\n|---|---|\n| nginx | yes |\n| redis | no |\n")
    assert rows["nginx"] == "| nginx | yes |"
    assert rows["redis"].startswith("| redis | ? | yes |")
