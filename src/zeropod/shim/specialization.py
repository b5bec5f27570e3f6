"""Has the interpreter number types and namespaces, and size up classes, before there are forks.

Code that was rewritten for what it has met (PEP 659) is good for as long as that stays the same, and tells so by a
number: of a type, of a module's names, of the names that the attributes of a class's objects have. Each gets its number
when code first depends on it. And of every class the interpreter counts the first thirty objects, with less and less
room in each for attributes that others of them have not had. In a fork, all that is a page of memory for a few bytes.

It is brought about by looking: at a name of each type and of each module, and at objects of each class of which making
and dropping one runs nothing of anybody's. Nothing else is done to any of them.

Source of facts: CPython 3.14, Python/specialize.c, Objects/dictobject.c (_PyDict_NewKeysForClass,
_PyObject_InitInlineValues), Objects/typeobject.c (assign_version_tag).
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any

_INLINE_VALUES = 1 << 2
"""Py_TPFLAGS_INLINE_VALUES, since CPython 3.13: an object is its attributes and nothing else."""

_COUNTED = 30
"""SHARED_KEYS_MAX_SIZE: objects of a class that are counted, and attributes that they have room for."""

_LOOKS = 8
"""Code is rewritten when it runs for the third time or so."""

_of = type.__getattribute__
"""What a class has, whatever its metaclass makes of that."""


def prepare() -> None:
    """To be called when all is imported and nothing runs."""
    for kind in {id(kind): kind for kind in _below(object)}.values():  # a metaclass may compare as it likes
        _number(kind)
        if _is_plain(kind):
            with suppress(TypeError):  # an abstract class, say
                _size_up(kind)
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", None)
        if type(names) is dict and "__name__" in names:
            _repeat(FunctionType(_name.__code__.replace(), names))


def _below(kind: type) -> Iterator[type]:
    """It and all that inherit from it, some of them more than once."""
    yield kind
    below: type
    for below in type.__subclasses__(kind):
        yield from _below(below)


def _number(kind: type) -> None:
    with suppress(AttributeError):
        _of(kind, "not a name of any type's")


def _is_plain(kind: type) -> bool:
    """Whether an object of it can be made, looked at and dropped without any code of its own."""
    return (
        bool(_of(kind, "__flags__") & _INLINE_VALUES)
        and "__module__" in _of(kind, "__dict__")
        and _of(kind, "__new__") is object.__new__
        and _of(kind, "__getattribute__") is object.__getattribute__
        and not any("__del__" in space for space in _spaces(kind))
    )


def _size_up(kind: type) -> None:
    """Raises TypeError if no objects of it can be made."""
    thing: object = object.__new__(kind)
    for name in _attributes(kind):
        object.__setattr__(thing, name, None)
    look = FunctionType(_module.__code__.replace(), {})
    _repeat(lambda: look(thing))
    for _ in range(_COUNTED):
        object.__new__(kind)


def _attributes(kind: type) -> Iterator[str]:
    """The attributes that its objects will have, as far as its methods and fields say."""
    spaces = _spaces(kind)
    for space in spaces:
        for name in (*space.get("__static_attributes__", ()), *space.get("__dataclass_fields__", ())):
            known = next((other[name] for other in spaces if name in other), None)
            if not hasattr(type(known), "__set__"):  # or it would be asked to
                yield name


def _spaces(kind: type) -> list[Mapping[str, Any]]:
    return [_of(base, "__dict__") for base in _of(kind, "__mro__")]


def _repeat(look: Callable[[], object]) -> None:
    for _ in range(_LOOKS):
        look()


def _name() -> object:
    return __name__


def _module(thing: object) -> object:
    return thing.__module__
