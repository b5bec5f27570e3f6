"""`zeropod doctor`: checks whether this node has what zeropod needs, and says what is missing and how to fix that."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from zeropod.manager.checks import CHECKS, Finding, Need, carry_out


def main(arguments: list[str]) -> int:
    """Print the findings. Returns 0, or 1 if something required is missing."""
    parser = argparse.ArgumentParser(
        prog="zeropod doctor", description=__doc__, epilog="Exit status 1 if something required is missing."
    )
    parser.add_argument("--json", action="store_true", help="one JSON array")
    options = parser.parse_args(arguments)
    findings = [carry_out(check) for check in CHECKS]
    print(json.dumps([as_dict(finding) for finding in findings]) if options.json else report(findings))
    return int(any(finding.missing and finding.check.need is Need.REQUIRED for finding in findings))


def report(findings: Sequence[Finding]) -> str:
    width = max(len(finding.check.name) for finding in findings)
    lines = []
    for finding in findings:
        check = finding.check
        first, *more = finding.found.splitlines() or [""]
        lines.append(f"{finding.verdict:<5}  {check.name:<{width}}  {first}")
        below = [*more, *([f"so {check.without}", f"> {check.remedy}"] if finding.missing else ())]
        lines += [f"{'':<{width + 9}}{line}" for line in below]
    return "\n".join(lines)


def as_dict(finding: Finding) -> dict[str, Any]:
    check = finding.check
    return {
        "name": check.name,
        "ok": not finding.missing,
        "need": check.need.value,
        "found": finding.found,
        "without": check.without if finding.missing else None,
        "remedy": check.remedy if finding.missing else None,
    }
