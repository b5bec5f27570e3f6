"""`runtime.image.reapplied.Noted` as JSON, and back with everything checked.

What is set again comes from another node, so it is held to what this one would have noted itself: options that are
looked at, multicast addresses, values of no more than their size.
"""

from base64 import b64decode, b64encode
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, TypeVar

from zeropod.kernel import socket_options
from zeropod.kernel.socket_options import Group, Option
from zeropod.kernel.task_attributes import Attributes
from zeropod.runtime.exports.errors import BadExport
from zeropod.runtime.exports.reading import Object, digits, entries, number, text
from zeropod.runtime.image.reapplied import Noted

_LONGEST: Final = 16
"""Bytes of an option's value."""
_U32: Final = (1 << 32) - 1

_Part = TypeVar("_Part")


def to_json(noted: Noted) -> dict[str, Any]:
    """Return what `from_json` reads."""
    return {
        "threads": {
            str(pid): {str(tid): _attributes(each) for tid, each in threads.items()}
            for pid, threads in noted.threads.items()
        },
        "core_filters": {str(pid): each for pid, each in noted.core_filters.items()},
        "options": {
            str(pid): {
                str(fd): [
                    [option.name, option.level, option.number, b64encode(value).decode()] for option, value in own
                ]
                for fd, own in numbers.items()
            }
            for pid, numbers in noted.options.items()
        },
        "groups": {
            str(pid): {str(fd): [[group.interface, group.address] for group in own] for fd, own in numbers.items()}
            for pid, numbers in noted.groups.items()
        },
    }


def from_json(found: Object) -> Noted:
    """Raises BadExport."""
    return Noted(
        found.mapping("threads", digits, _inner(_read_attributes)),
        found.mapping("core_filters", digits, _core_filter),
        found.mapping("options", digits, _inner(_list_of(_option))),
        found.mapping("groups", digits, _inner(_list_of(_group))),
    )


def _attributes(found: Attributes) -> list[Any]:
    return [sorted(found.affinity), found.io_priority, found.timer_slack]


def _pair(option: Option, value: bytes) -> list[Any]:
    return [option.name, option.level, option.number, b64encode(value).decode()]


def _inner(part: Callable[[Any, str], _Part]) -> Callable[[Any, str], dict[int, _Part]]:
    def read(found: Any, where: str) -> dict[int, _Part]:
        return Object({"entries": found}, where).mapping("entries", digits, part)

    return read


def _list_of(part: Callable[[Any, str], _Part]) -> Callable[[Any, str], list[_Part]]:
    return lambda found, where: [part(each, where) for each in entries(found, where)]


def _row(found: Any, where: str, length: int) -> list[Any]:
    row = list(entries(found, where))
    if len(row) != length:
        raise BadExport(f"{where} has not {length} parts")
    return row


def _read_attributes(found: Any, where: str) -> Attributes:
    affinity, io_priority, timer_slack = _row(found, where, 3)
    processors = frozenset(number(each, where, 1 << 16) for each in entries(affinity, where))
    if not processors:
        raise BadExport(f"{where} is bound to no processor")
    return Attributes(processors, number(io_priority, where, 0xFFFF), number(timer_slack, where))


def _core_filter(found: Any, where: str) -> str:
    said = text(found, where, 16).strip()
    try:
        int(said, 16)
    except ValueError:
        raise BadExport(f"{where} is not a core dump filter") from None
    return said


def _option(found: Any, where: str) -> tuple[Option, bytes]:
    name, level, option, value = _row(found, where, 4)
    made = Option(text(name, where, 64), number(level, where, _U32), number(option, where, _U32))
    if made not in socket_options.KNOWN:
        raise BadExport(f"{where}: {made.name[:64]!r} is not an option that is set again")
    try:
        raw = b64decode(text(value, where, 64), validate=True)
    except ValueError:
        raise BadExport(f"{where}: the value of {made.name} is not base64") from None
    if len(raw) > _LONGEST:
        raise BadExport(f"{where}: the value of {made.name} is too long")
    return made, raw


def _group(found: Any, where: str) -> Group:
    interface, address = _row(found, where, 2)
    try:
        parsed = ip_address(text(address, where, 64))
    except ValueError:
        raise BadExport(f"{where} is not an address") from None
    if not parsed.is_multicast or "%" in str(parsed):
        raise BadExport(f"{where} is not a multicast address")
    return Group(number(interface, where, _U32), str(parsed))
