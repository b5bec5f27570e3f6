"""`.ci/run` runs what README.md tells to run; what it does not run is listed here, with the reason.

Every line of a code block counts as a command unless its block is marked as another language, is a drawing, or is what
a program has written. So a new line of README.md is noticed, whatever program it calls.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

NEEDS = {
    # Of the base that the Containerfile names, too.
    "./justw image": "needs an image registry",
    "./justw image REGISTRY/zeropod-node": "needs an image registry",
}
"""What cannot run where there is nothing but a checkout, and what the comment beside it says of that."""

LEFT_OUT = {
    "build/bundle/bin/zeropod.pyz installer": "changes the node; tests/integration/installer runs it in the test node",
    "./justw unit": "is part of `test`",
    "./justw test-long": "takes an hour; `test` has a part of it",
    "./justw test-older": "takes as long as `test`, whose test_installer.py sleeps and wakes on containerd 1.7",
    "./justw test-cluster-oldest": "builds another Kubernetes, in 12 minutes",
    "./justw conformance": "takes an hour and writes docs/conformance.md anew; `critest` is what runs each time",
    "./justw test-vm": "takes hours; test-vm-short is a selection",
    "./justw test-vm-older": "takes hours; test-vm-short is a selection",
    "./justw compat": "writes docs/compatibility.md anew; test-vm-short tries some of the applications",
    "./justw compat-vm": "takes hours, as test-vm; test-vm-short tries some of the applications",
    "./justw plots": "writes docs/images anew, from what the whole of `bench` has measured",
}
"""What could run, and why it does not."""

PLACEHOLDER = re.compile(r"[A-Z]+")
# The first line of a drawing, and of what the demo has written.
NO_COMMANDS = re.compile(r".*[─│▼▶]|\d\d:\d\d\.\d{3} ")
SHELLS = ("", "sh", "bash", "shell", "console")


@dataclass(frozen=True, slots=True)
class Command:
    line: str
    comment: str


def blocks(page: str) -> Iterator[list[str]]:
    """The code blocks of a page of Markdown that may hold commands, fenced and indented, without their indentation."""
    block: list[str] = []
    fence: str | None = None
    before = ""
    for line in [*page.splitlines(), "the end"]:
        if line.startswith("```"):
            if block and fence in (None, *SHELLS):
                yield block
            block, fence = [], None if fence is not None else line.removeprefix("```").strip()
        elif fence is not None:
            block.append(line)
        elif line.startswith("    ") and (block or not before):
            block.append(line.removeprefix("    "))
        elif line and block:  # blank lines do not end an indented block
            yield block
            block = []
        before = line


def commands(page: str) -> list[Command]:
    """What a page tells to run, in its order."""
    return [command for block in blocks(page) if not NO_COMMANDS.match(block[0]) for command in _commands(block)]


def _commands(block: list[str]) -> Iterator[Command]:
    # With a prompt, the lines that have none are what the command has written.
    prompt = next((each for each in ("# ", "$ ") if block[0].startswith(each)), "")
    for line in block:
        text = line.removeprefix(prompt) if line.startswith(prompt) else ""
        command, _, comment = re.sub(r"\s+#\s+|\s{2,}", "\0", text, count=1).partition("\0")
        if command:
            yield Command(command, comment)


def run_by_ci() -> list[str]:
    """The lines of .ci/run that are no comments, each with those that continue it."""
    text = (ROOT / ".ci" / "run").read_text().replace("\\\n", " ")
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def is_run(command: str, lines: list[str]) -> bool:
    """Whether one of the lines is the command, with something in the place of what it leaves open, or options more."""
    words = (r"\S+" if PLACEHOLDER.fullmatch(word) else re.escape(word) for word in command.split())
    pattern = re.compile(" ".join(words) + ("( .*)?" if command.endswith(" CMD") else "( -.*)?"))
    return any(pattern.fullmatch(line) for line in lines)


README = commands((ROOT / "README.md").read_text())


@pytest.mark.parametrize("command", sorted({command.line for command in README} - NEEDS.keys() - LEFT_OUT.keys()))
def test_ci_runs_what_the_readme_tells_to_run(command: str) -> None:
    assert is_run(command, run_by_ci()), f"add it to .ci/run, or to the tables of {__name__} with a reason"


def test_ci_ends_at_the_first_failure() -> None:
    assert "set -euo pipefail" in run_by_ci()


@pytest.mark.parametrize("line", sorted(NEEDS))
def test_the_readme_says_what_a_command_needs(line: str) -> None:
    comments = [command.comment for command in README if command.line == line]
    assert comments
    assert all(NEEDS[line] in comment for comment in comments)


@pytest.mark.parametrize("line", sorted(NEEDS | LEFT_OUT))
def test_what_ci_leaves_out_is_in_the_readme_and_is_left_out(line: str) -> None:
    assert line in {command.line for command in README}
    assert line not in run_by_ci()


def test_commands_are_found_in_every_kind_of_block() -> None:
    page = """
text

    ./justw one  # with a comment
    zeropod two ID   what it does

    three --option
text
    that goes on

    # four --all
    ID   STATE

```sh
five
```

```yaml
apiVersion: v1
```

    00:01.000  redis  AWAKE

    A ──▶ B

    what it is
"""
    found = [command.line for command in commands(page)]
    assert found == ["./justw one", "zeropod two ID", "three --option", "four --all", "five"]


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        ("./justw demo", "./justw demo --plain", True),
        ("./justw", "./justw demo", False),
        ("./justw test", "./justw test-vm-short", False),
        ("./justw test", "echo ./justw test", False),
        ("zeropod wake ID", "zeropod wake cache", True),
        ("./justw node CMD", "./justw node bash -c '", True),
    ],
)
def test_a_line_runs_a_command(command: str, line: str, expected: bool) -> None:
    assert is_run(command, [line]) == expected
