#!/usr/bin/env python3
"""Writes the tables of docs/conformance.md from what Kubernetes' own tests say, in build/results/conformance.json."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "conformance.md"
RECORD = ROOT / "build" / "results" / "conformance.json"
PART = re.compile(r"(<!-- recorded: conformance -->\n).*?(<!-- end -->)", re.DOTALL)
GROUP = re.compile(r"\[sig-[\w-]+\] ((?:[A-Z]\S* ?)+)")
RUNTIMES = ("runc", "zeropod")


def page(seen: Mapping[str, Any]) -> str:
    """What was run on what, the numbers by group, and each test that has not passed with both."""
    versions = f"Kubernetes {seen['kubernetes'].removeprefix('v')}, containerd {seen['containerd']}"
    asked = f"`{seen['focus']}`" + (f" without `{seen['skip']}`" if seen["skip"] else "")
    lines = [
        f"{versions}, Linux {seen['kernel']}; {asked},",
        f"`scaledown-duration` {seen['scaledown']}; containers fell asleep {seen['slept']} times meanwhile.",
        "",
        "| tests | run | pass with runc | pass with zeropod |",
        "|---|---|---|---|",
    ]
    tests: Mapping[str, Mapping[str, str]] = seen["tests"]
    groups: dict[str, list[Mapping[str, str]]] = {}
    for name, states in tests.items():
        groups.setdefault(group(name), []).append(states)
    for title, members in [*sorted(groups.items()), ("**all**", [*tests.values()])]:
        passed = [sum(states[runtime] == "passed" for states in members) for runtime in RUNTIMES]
        lines.append(f"| {title} | {len(members)} | {passed[0]} | {passed[1]} |")
    others = {name: states for name, states in tests.items() if set(states.values()) != {"passed"}}
    if others:
        lines += ["", "| has not passed with both | runc | zeropod |", "|---|---|---|"]
        lines += [f"| {name} | {states['runc']} | {states['zeropod']} |" for name, states in others.items()]
    return "\n".join(lines) + "\n"


def group(name: str) -> str:
    """The capitalized words after [sig-node]: what the test is of."""
    found = GROUP.match(name)
    return found[1].strip() if found else name.split(" [")[0]


def main() -> int:
    if not RECORD.exists():
        print(f"{RECORD} is not there: run ./justw conformance first", file=sys.stderr)
        return 1
    part = page(json.loads(RECORD.read_text()))
    PAGE.write_text(PART.sub(lambda match: f"{match[1]}\n{part}\n{match[2]}", PAGE.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
