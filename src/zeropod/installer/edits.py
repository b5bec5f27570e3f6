"""Reversible edits of another program's configuration. Pure functions on text; all other content stays unchanged.

zeropod's block is at the end of the file, between two comments: TOML allows tables in any order, and templates that
render to TOML can be extended in the same way without parsing them.
"""

import fnmatch
import re
import tomllib
from typing import Any

import tomlkit
from tomlkit.items import Array

from zeropod.installer.errors import InstallError

BEGIN = "# zeropod: begin. Written by `zeropod installer`, and taken away by `zeropod installer --uninstall`."
END = "# zeropod: end."
_BLOCK = re.compile(rf"\n?^{re.escape(BEGIN)}$.*?^{re.escape(END)}$\r?\n?", re.MULTILINE | re.DOTALL)


def with_block(text: str, block: str) -> str:
    """Return the text with zeropod's block at its end, replacing an earlier one."""
    rest = without_block(text)
    gap = "" if not rest else "\n" if rest.endswith("\n") else "\n\n"
    return f"{rest}{gap}{BEGIN}\n{block}{END}\n"


def without_block(text: str) -> str:
    return _BLOCK.sub("", text)


def parse(text: str, path: str) -> dict[str, Any]:
    """Return the file's values. Raises InstallError for invalid TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InstallError(f"{path} is not valid TOML: {error}") from error


def imports(values: dict[str, Any]) -> list[str]:
    found = values.get("imports", [])
    return [pattern for pattern in found if isinstance(pattern, str)] if isinstance(found, list) else []


def imported_by(patterns: list[str], drop_in: str, directory: str) -> bool:
    """Return whether one of the patterns matches the path; they may be relative to the importing file's directory."""
    absolute = (pattern if pattern.startswith("/") else f"{directory}/{pattern}" for pattern in patterns)
    # Go's filepath.Glob does not let a star stand for a slash.
    return any(
        pattern.count("/") == drop_in.count("/") and fnmatch.fnmatchcase(drop_in, pattern) for pattern in absolute
    )


def with_import(text: str, drop_in: str) -> str:
    """Return the text with one more import: in its array, on one line or several, or in a new one."""
    document = tomlkit.parse(text)
    present = document.get("imports")
    if present is None:
        # A bare key must precede the first table, so it follows the version or is the first line.
        version = re.search(r"^version\b.*$\n?", text, re.MULTILINE)
        head, tail = (text[: version.end()], text[version.end() :]) if version else ("", text)
        gap = "" if not head or head.endswith("\n") else "\n"
        return f'{head}{gap}imports = ["{drop_in}"]\n{tail}'
    if not isinstance(present, Array):
        raise InstallError("`imports` is not an array")
    if drop_in not in list(present):
        present.append(drop_in)
    return tomlkit.dumps(document)


def without_import(text: str, drop_in: str) -> str:
    """Return the text without this import; without the whole key, if it was the only one."""
    document = tomlkit.parse(text)
    present = document.get("imports")
    if not isinstance(present, Array) or drop_in not in list(present):
        return text
    if len(present) == 1:
        del document["imports"]
    else:
        present.remove(drop_in)
    return tomlkit.dumps(document)
