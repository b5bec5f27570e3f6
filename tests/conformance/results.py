"""What a suite of Ginkgo's says of each of its tests, and what of that is worse than with the reference."""

import json
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PASSED, SKIPPED = "passed", "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    state: str
    """passed, skipped, or a way to fail: failed, timedout, panicked, …"""
    seconds: float
    message: str

    @property
    def has_run(self) -> bool:
        return self.state != SKIPPED


Results = Mapping[str, Result]


def run(programs: Path, suite: str, processes: int, options: Sequence[str], arguments: Sequence[str], log: Path,
        timeout: float) -> Results:  # fmt: skip
    """Run a suite in so many processes, with options for Ginkgo and arguments for the suite; its output goes to `log`.

    Raises RuntimeError where it does not come to an end.
    """
    report = log.with_suffix(".json")
    report.unlink(missing_ok=True)
    command = [str(programs / "ginkgo"), f"--procs={processes}", "--seed=1", "--no-color", f"--timeout={timeout:.0f}s"]
    command += [f"--output-dir={report.parent}", f"--json-report={report.name}", *options]
    with log.open("wb") as output:
        subprocess.run(
            [*command, str(programs / suite), "--", *arguments],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=timeout + 60, check=False, cwd="/",
        )  # fmt: skip
    if not report.exists():
        raise RuntimeError("\n".join([f"{suite} has written no report; the end of {log}:", *_tail(log)]))
    return read(report.read_text())


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-30:]


def read(report: str) -> Results:
    """Ginkgo's report in JSON."""
    found = {}
    for suite in json.loads(report):
        for spec in suite["SpecReports"]:
            if spec["LeafNodeType"] == "It":
                name = " ".join([*(spec["ContainerHierarchyTexts"] or ()), spec["LeafNodeText"]])
                message = (spec.get("Failure") or {}).get("Message", "")
                found[name] = Result(spec["State"], spec["RunTime"] / 1e9, message)
    return found


def worse(ours: Results, reference: Results) -> dict[str, str]:
    """Tests that pass with the reference and not with ours, or run with it and not with ours, and how they end."""
    found = {}
    for name, expected in reference.items():
        got = ours.get(name)
        if got is None:
            found[name] = "is missing"
        elif (expected.state == PASSED and got.state != PASSED) or (expected.has_run and not got.has_run):
            found[name] = f"{got.state}: {got.message}"
    return found


def counts(results: Results) -> str:
    """How many of each, such as 84 passed, 29 failed."""
    states = Counter(result.state for result in results.values() if result.has_run)
    return ", ".join(f"{number} {state}" for state, number in states.most_common())
