"""Moves the code that runs in a shim side by side in memory, before there are forks.

Code that runs is written to: the interpreter counts in it what an instruction has met, and notes which way a branch
went (PEP 659). So its pages become a fork's own. A module's functions lie one after the other, whether they ever run
or not, so most of the bytes in such a page are of code that does not. Which code runs is recorded while `warm_up`
plays a shim's life: what does not run there takes more memory later, and that is all.
"""

import gc
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType, FunctionType

from zeropod.zygote.cow import fill_gaps

Ran = dict[int, CodeType]
"""Code by its id, since two code objects with the same content are equal."""


@contextmanager
def recorded() -> Iterator[Ran]:
    """Records the code that runs inside the block, in this thread and in threads that start there."""
    ran: Ran = {}

    def note(frame: FrameType, event: str, arg: object) -> None:
        del event, arg
        ran[id(frame.f_code)] = frame.f_code

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield ran
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def pack(ran: Ran) -> None:
    """Moves this code, of functions that exist. Call it when everything is imported and nothing else runs."""
    # Not isinstance: a proxy answers for the object behind it.
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
    for code in ran.values():
        code.replace()  # it caches bytes in the original, which would otherwise lie between the copies
    fill_gaps()
    copies = _Copies(ran)
    # Copy all before the first is put in its place: what that frees would be a gap for the next copy.
    copied = [(function, copies.of(function.__code__)) for function in functions]
    for function, code in copied:
        function.__code__ = code


class _Copies:
    """Copies of code that has run, and of code that contains such code."""

    def __init__(self, ran: Ran) -> None:
        self._ran = ran
        self._copies: dict[int, tuple[CodeType, CodeType]] = {}

    def of(self, code: CodeType) -> CodeType:
        """Return the copy of `code`, or `code` itself if it stays where it is."""
        if id(code) not in self._copies:
            constants = tuple(
                self.of(constant) if isinstance(constant, CodeType) else constant for constant in code.co_consts
            )
            holds = any(constant is not former for constant, former in zip(constants, code.co_consts, strict=True))
            # A weak reference is a note about this very object: trio has some about code that no signal may interrupt.
            wanted = (holds or id(code) in self._ran) and not weakref.getweakrefcount(code)
            self._copies[id(code)] = code, code.replace(co_consts=constants) if wanted else code
        return self._copies[id(code)][1]
