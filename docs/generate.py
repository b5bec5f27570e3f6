#!/usr/bin/env python3
"""Writes the parts of docs/ that are the code's own words: `just docs`; with --check it only says what is outdated.

A part stands between two comments that name it. Everything is read from the sources as text, so that nothing needs to
be installed; the state tables alone are imported, being what the shim itself decides by.
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

from zeropod.shim.lifecycle import Event, Request, State, decide, react  # noqa: E402 - found on the path that was just extended

PACKAGES = ("rpc", "kernel", "runtime", "runtime/cgroups", "runtime/pager", "activator", "shim", "manager", "installer")
"""From the lowest layer to the highest."""


def states() -> str:
    """What each request does in each state, by `zeropod.shim.lifecycle`."""
    return table({request.name: [decide(state, request).name for state in State] for request in Request})


def events() -> str:
    """What each event does in each state."""
    return table({event.name: [react(state, event).name for state in State] for event in Event})


def table(rows: dict[str, list[str]]) -> str:
    lines = ["| | " + " | ".join(state.name for state in State) + " |", "|---" * (len(State) + 1) + "|"]
    for name, cells in rows.items():
        words = (cell.lower().replace("_", " ") for cell in cells)
        lines.append(f"| **{name}** | " + " | ".join("·" if word == "nothing" else word for word in words) + " |")
    return "\n".join(lines)


def answers() -> str:
    return members("Answer")


def reactions() -> str:
    return members("Reaction")


def happenings() -> str:
    return members("Event")


def members(enumeration: str) -> str:
    """What each member of an enumeration of the lifecycle means, as it says itself."""
    tree = ast.parse((SOURCE / "zeropod/shim/lifecycle.py").read_text())
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == enumeration)
    lines = []
    for member, text in itertools.pairwise(body):
        match member, text:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(words))):
                lines.append(f"- **{name.lower().replace('_', ' ')}**: {words}")
    return "\n".join(lines)


def modules() -> str:
    """Every package and module with the first paragraph of its docstring."""
    parts = []
    for package in PACKAGES:
        directory = SOURCE / "zeropod" / package
        parts += [f"### {package}", first_paragraph(directory / "__init__.py")]
        names = sorted(path for path in directory.glob("*.py") if path.name != "__init__.py")
        described = [f"- `{path.stem}`: {first_paragraph(path)}" for path in names if not path.stem.endswith("_pb2")]
        parts.append("\n".join(described))
    parts += ["### What starts it", "\n".join(_entry(name) for name in ("__main__", "unpack", "private"))]
    return "\n\n".join(part for part in parts if part)


def _entry(name: str) -> str:
    return f"- `{name}`: {first_paragraph(SOURCE / 'zeropod' / f'{name}.py')}"


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
    "states": states,
    "answers": answers,
    "events": events,
    "happenings": happenings,
    "reactions": reactions,
    "modules": modules,
}


def render(page: str) -> str:
    """The page with every part written anew."""

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
