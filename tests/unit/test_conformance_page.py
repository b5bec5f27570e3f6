"""What Kubernetes' own tests say becomes a part of docs/conformance.md."""

import importlib.util
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "conformance.py"

spec = importlib.util.spec_from_file_location("conformance", PAGE)
assert spec
assert spec.loader
conformance = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conformance)

SEEN = {
    "kubernetes": "v1.37.2",
    "containerd": "2.1.9",
    "kernel": "6.18.0",
    "scaledown": "500ms",
    "focus": r"\[sig-node\]",
    "skip": "",
    "slept": 7,
    "tests": {
        "[sig-node] Pods should be updated [Conformance]": {"runc": "passed", "zeropod": "passed"},
        "[sig-node] Pods should be deleted [Conformance]": {"runc": "failed", "zeropod": "failed"},
        "[sig-node] Secrets should be there": {"runc": "failed", "zeropod": "passed"},
    },
}


def test_tests_are_counted_by_what_they_are_of() -> None:
    lines = conformance.page(SEEN).splitlines()
    assert lines[0] == "Kubernetes 1.37.2, containerd 2.1.9, Linux 6.18.0; `\\[sig-node\\]`,"
    assert "| Pods | 2 | 1 | 1 |" in lines
    assert "| Secrets | 1 | 0 | 1 |" in lines
    assert "| **all** | 3 | 1 | 2 |" in lines


def test_what_has_not_passed_with_both_is_named() -> None:
    lines = conformance.page(SEEN).splitlines()
    assert lines[-2:] == [
        "| [sig-node] Pods should be deleted [Conformance] | failed | failed |",
        "| [sig-node] Secrets should be there | failed | passed |",
    ]
