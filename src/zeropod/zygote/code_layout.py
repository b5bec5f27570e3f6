"""Make the code that runs in a shim contiguous in memory, before forks exist.

The interpreter writes to code that runs: counters for what an instruction has met, and branch history (PEP 659). So its
pages become a fork's own. A module's functions are consecutive, whether they ever run or not, so most bytes of such
pages belong to code that does not run.

The code that runs is recorded during `warm_up`; code that does not run there only takes more memory later.
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
"""Code objects by id, because two with the same content are equal."""


@contextmanager
def recorded() -> Iterator[Ran]:
    """Record the code that runs inside the block, in this thread and in threads that start there."""
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
    """Move this code, of existing functions. Call it when everything is imported and nothing else runs."""
    # Not isinstance: a proxy answers for the object behind it.
    functions = [thing for thing in gc.get_objects() if type(thing) is FunctionType]
    for code in ran.values():
        code.replace()  # it caches bytes in the original, which would otherwise be allocated between the copies
    fill_gaps()
    copies = _Copies(ran)
    # Copy all code before replacing any: freed originals would be gaps for the next copies.
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
            # A weak reference identifies this very object: trio keeps some for code that no signal may interrupt.
            wanted = (holds or id(code) in self._ran) and not weakref.getweakrefcount(code)
            self._copies[id(code)] = code, code.replace(co_consts=constants) if wanted else code
        return self._copies[id(code)][1]
