"""Edits of another program's configuration that can be taken back. Pure text; what is not ours stays as it was.

A block of ours stands between two comments at the end of the file: tables may come in any order in TOML, and templates
that render to TOML can be extended in the same way without being understood.
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
    """The text with our block at its end, in place of an earlier one."""
    rest = without_block(text)
    gap = "" if not rest else "\n" if rest.endswith("\n") else "\n\n"
    return f"{rest}{gap}{BEGIN}\n{block}{END}\n"


def without_block(text: str) -> str:
    return _BLOCK.sub("", text)


def parse(text: str, path: str) -> dict[str, Any]:
    """The file's values. Raises InstallError where it is no TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InstallError(f"{path} is not valid TOML: {error}") from error


def imports(values: dict[str, Any]) -> list[str]:
    found = values.get("imports", [])
    return [pattern for pattern in found if isinstance(pattern, str)] if isinstance(found, list) else []


def imported_by(patterns: list[str], drop_in: str, directory: str) -> bool:
    """Whether one of the patterns, which may be relative to the importing file's directory, covers the path."""
    absolute = (pattern if pattern.startswith("/") else f"{directory}/{pattern}" for pattern in patterns)
    # Go's filepath.Glob does not let a star stand for a slash.
    return any(
        pattern.count("/") == drop_in.count("/") and fnmatch.fnmatchcase(drop_in, pattern) for pattern in absolute
    )


def with_import(text: str, drop_in: str) -> str:
    """The text with one more import, in the array that is there, on one line or many, or in a new one."""
    document = tomlkit.parse(text)
    present = document.get("imports")
    if present is None:
        # A bare key has to come before the first table, so it follows the version or is the first.
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
    """The text without this import; without the whole key, if it is the last one."""
    document = tomlkit.parse(text)
    present = document.get("imports")
    if not isinstance(present, Array) or drop_in not in list(present):
        return text
    if len(present) == 1:
        del document["imports"]
    else:
        present.remove(drop_in)
    return tomlkit.dumps(document)
