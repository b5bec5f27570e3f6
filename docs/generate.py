#!/usr/bin/env python3
"""Writes the parts of docs/ that are the code's own words: `just docs`; with --check it only says what is outdated.

A part stands between two comments that name it. Everything is read from the sources as text but the tables, which are
imported, being what the shim itself decides by.
"""

import argparse
import ast
import itertools
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
sys.path.insert(0, str(SOURCE))

from zeropod.lifecycle import reasons  # noqa: E402 - found on that path
from zeropod.lifecycle.machine import TRANSITIONS, Request, Row, State, decide  # noqa: E402 - found on that path
from zeropod.runtime.image import obstacle  # noqa: E402 - likewise

MACHINE = SOURCE / "zeropod" / "lifecycle" / "machine.py"

PACKAGES = (
    "boot",
    "launch",
    "zygote",
    "cli",
    "shim",
    "manager",
    "installer",
    "lifecycle",
    "activator",
    "runtime",
    "kernel",
    "rpc",
)
"""From the highest layer to the lowest."""


def answers() -> str:
    """What each request does in each state, by `zeropod.lifecycle.machine`."""
    lines = ["| | " + " | ".join(state.name for state in State) + " |", "|---" * (len(State) + 1) + "|"]
    for request in Request:
        words = (decide(state, request).name.lower() for state in State)
        lines.append(f"| **{request.name}** | " + " | ".join(words) + " |")
    return "\n".join(lines)


def transitions() -> str:
    """Every change of state, those with the same consequence on one line."""
    lines = ["| event | in | leads to | what is done then |", "|---|---|---|---|"]
    merged: dict[tuple[str, Row], list[State]] = {}
    for (state, event), row in TRANSITIONS.items():
        merged.setdefault((event.name, row), []).append(state)
    together: dict[tuple[str, Row], list[str]] = {}
    for (event_name, row), states in merged.items():
        where = "any state but STOPPED" if len(states) == len(State) - 1 else ", ".join(state.name for state in states)
        together.setdefault((where, row), []).append(event_name)
    for (where, row), names in together.items():
        done = ", ".join(_words(action.name) for action in row.actions) or "·"
        lines.append(f"| **{', '.join(names)}** | {where} | {row.next.name} | {done} |")
    return "\n".join(lines)


def diagram() -> str:
    """The states as the state machine draws them itself."""
    drawn = (ast.get_docstring(ast.parse(MACHINE.read_text())) or "").splitlines()
    return "\n".join(line for line in drawn if line.startswith("    "))


def answer_words() -> str:
    return members("Answer")


def events() -> str:
    return members("Event")


def actions() -> str:
    return members("Action")


def members(enumeration: str) -> str:
    """What each member of an enumeration of the state machine means, as it says itself."""
    tree = ast.parse(MACHINE.read_text())
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == enumeration)
    lines = []
    for member, text in itertools.pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(words))):
                lines.append(f"- **{_words(name)}**: {' '.join(words.split())}")
    return "\n".join(lines)


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def packages() -> str:
    """Every package with the first paragraph of its docstring; what a module is for, it says itself."""
    lines = []
    for package in PACKAGES:
        top = SOURCE / "zeropod" / package
        for path in sorted(top.rglob("__init__.py")):
            name = path.parent.relative_to(SOURCE / "zeropod").as_posix()
            if text := first_paragraph(path):
                lines.append(f"| `{name}` | {text} |")
    return "\n".join(("| package | what it is for |", "|---|---|", *lines))


def obstacles() -> str:
    """What stands against COLD, and what to do about it."""
    return obstacle.table().rstrip()


def reason_table() -> str:
    """Why a container is awake or no deeper asleep, and what to do about it."""
    return reasons.table().rstrip()


def first_paragraph(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.partition("\n\n")[0].split())


def plots() -> str:
    """What `just plots` has drawn."""
    drawn = [path.name for path in sorted((ROOT / "docs" / "images").glob("*.png"))]
    return "\n\n".join(f"![{PLOTS.get(name, name)}](images/{name})" for name in drawn) or "None has been drawn yet."


PLOTS = {
    "many.png": "Memory of each of many sleeping pods",
    "wake-cold.png": "Wakes from COLD",
    "wake-standby.png": "Wakes from STANDBY",
    "window.png": "The scale-down window by memory size",
}


PARTS = {
    "plots": plots,
    "answers": answers,
    "answer_words": answer_words,
    "transitions": transitions,
    "diagram": diagram,
    "events": events,
    "actions": actions,
    "packages": packages,
    "obstacles": obstacles,
    "reasons": reason_table,
}


def render(page: str) -> str:
    """Return the page with every generated part updated."""

    def fill(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n\n{PARTS[found[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", fill, page, flags=re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a page is outdated")
    options = parser.parse_args()
    outdated = []
    for path in sorted((ROOT / "docs").glob("*.md")):
        page = path.read_text()
        if (rendered := render(page)) != page:
            outdated.append(path.relative_to(ROOT).as_posix())
            if not options.check:
                path.write_text(rendered)
    if options.check and outdated:
        sys.stderr.write(f"{', '.join(outdated)}: not what the code says; run ./justw docs\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
