"""Puts the code that all shims run side by side in memory, before there are forks.

Code that runs is written to: the interpreter counts in it what an instruction has met, and notes which way a branch
went (PEP 659). So its pages become a fork's own; and since a module's functions lie one after the other, whether they
ever run or not, most of what is in such a page does not. Side by side, what runs takes a quarter of the pages.

What that is was recorded once, in the life of a shim whose container sleeps and wakes: layout.txt, by
tests/bench/layout.py. What the list does not know takes more memory; what it knows in vain takes nothing.
"""

import gc
import pkgutil
import weakref
from collections.abc import Container, Iterable, Iterator
from types import CodeType, FunctionType

from zeropod.shim.freeze import fill_gaps


def recorded() -> frozenset[str]:
    """The list."""
    return frozenset((pkgutil.get_data(__package__, "layout.txt") or b"").decode().splitlines())


def pack(names: Container[str]) -> None:
    """Moves the code with these names. To be called when all is imported and nothing runs."""
    # Not isinstance: a proxy would answer for what it stands for.
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
    for name, code in named(functions):
        if name in names:
            code.replace()  # what this makes the code keep would lie between the copies
    fill_gaps()
    copies = _Copies(names)
    # All of them before the first one is put in its place: what it replaces leaves a gap.
    copied = [(function, copies.of(function.__code__, *_known_as(function))) for function in functions]
    for function, code in copied:
        function.__code__ = code


def named(functions: Iterable[FunctionType]) -> Iterator[tuple[str, CodeType]]:
    """Their code, and that of the functions that they make, by the names that the list has."""
    for function in functions:
        yield from _nested(function.__code__, *_known_as(function))


def _nested(code: CodeType, module: str, name: str) -> Iterator[tuple[str, CodeType]]:
    yield f"{module}:{name}", code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant, module, constant.co_qualname)


def _known_as(function: FunctionType) -> tuple[str, str]:
    # Not by its code's name, which is the same for all that dataclasses make, nor by a module that anybody can set.
    return function.__globals__.get("__name__", ""), function.__qualname__


class _Copies:
    """Of code that has one of the names, and of code that holds such."""

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self._copies: dict[int, tuple[CodeType, CodeType]] = {}
        """By the original's id: code that looks the same is equal."""

    def of(self, code: CodeType, module: str, name: str) -> CodeType:
        """The code itself, if it may stay where it is."""
        if id(code) not in self._copies:
            constants = tuple(
                self.of(constant, module, constant.co_qualname) if isinstance(constant, CodeType) else constant
                for constant in code.co_consts
            )
            holds = any(constant is not former for constant, former in zip(constants, code.co_consts, strict=True))
            # Whoever has a weak reference keeps something about it, as trio does of what no signal may interrupt.
            wanted = (holds or f"{module}:{name}" in self._names) and not weakref.getweakrefcount(code)
            self._copies[id(code)] = code, code.replace(co_consts=constants) if wanted else code
        return self._copies[id(code)][1]
