"""Reads JSON that may come from another node: each value is asked for with its type and its bounds."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from zeropod.runtime.exports.errors import BadExport

HIGHEST: Final = (1 << 63) - 1
"""What a number may be at most."""
LONGEST: Final = 4096
"""Characters of a text."""
MOST: Final = 1 << 20
"""Entries of a list or an object."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def parse(content: bytes) -> "Object":
    """Return the JSON object in a file's content. Raises BadExport."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadExport(f"it is not JSON: {error}") from None
    return Object(found, "it")


class Object:
    """A JSON object whose members are read by their types. `where` names it in errors."""

    def __init__(self, found: object, where: str) -> None:
        if not isinstance(found, dict):
            raise BadExport(f"{where} is not an object")
        self._found: Mapping[str, object] = found
        self._where = where

    def _get(self, key: str) -> object:
        if key not in self._found:
            raise BadExport(f"{self._where} has no {key}")
        return self._found[key]

    def text(self, key: str, *, longest: int = LONGEST) -> str:
        return text(self._get(key), f"{key} of {self._where}", longest)

    def number(self, key: str, *, highest: int = HIGHEST) -> int:
        return number(self._get(key), f"{key} of {self._where}", highest)

    def truth(self, key: str) -> bool:
        found = self._get(key)
        if not isinstance(found, bool):
            raise BadExport(f"{key} of {self._where} is neither true nor false")
        return found

    def part(self, key: str) -> "Object":
        return Object(self._get(key), f"{key} of {self._where}")

    def items(self, key: str) -> Sequence[object]:
        return entries(self._get(key), f"{key} of {self._where}")

    def mapping(
        self, key: str, keys: Callable[[str], _Key], values: Callable[[Any, str], _Value]
    ) -> dict[_Key, _Value]:
        """Return an object as a mapping. `keys` raises ValueError, `values` gets the value and where it is."""
        found, where = self._get(key), f"{key} of {self._where}"
        if not isinstance(found, dict) or len(found) > MOST:
            raise BadExport(f"{where} is not an object, or too large")
        result = {}
        for name, value in found.items():
            try:
                own = keys(name)
            except ValueError:
                raise BadExport(f"{name[:80]!r} has no business in {where}") from None
            result[own] = values(value, f"{name[:80]} in {where}")
        return result


def text(found: object, where: str, longest: int = LONGEST) -> str:
    if not isinstance(found, str) or len(found) > longest:
        raise BadExport(f"{where} is not a text, or too long")
    return found


def number(found: object, where: str, highest: int = HIGHEST) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found <= highest:
        raise BadExport(f"{where} is not a whole number from 0 to {highest}")
    return found


def entries(found: object, where: str) -> Sequence[object]:
    if not isinstance(found, list) or len(found) > MOST:
        raise BadExport(f"{where} is not a list, or too long")
    return found


def digits(key: str) -> int:
    """Return the number that a key is. Raises ValueError."""
    if not key.isascii() or not key.isdecimal() or len(key) > 10 or str(int(key)) != key:
        raise ValueError(key)
    return int(key)
