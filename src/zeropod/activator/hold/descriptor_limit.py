"""Room for the duplicates of a container's files: a shim may have 1,024 descriptors, a container thousands of sockets.

The soft limit is raised to the hard one only while it is needed, and put back with the last that needs it: what the
shim starts meanwhile inherits it, and programs exist that walk through all descriptors up to it.
"""

import errno
import os
import resource
from collections.abc import Callable
from typing import TypeVar

_Made = TypeVar("_Made")


class DescriptorLimit:
    """The soft limit of this process; one object for all that may need more."""

    def __init__(self) -> None:
        self._needed_by: set[object] = set()
        self._before = 0

    def make(self, needed_by: object, make: Callable[[], _Made]) -> _Made:
        """Return what `make` opens, in a raised limit if need be.

        Raises OSError; EMFILE, in words that name the limit, when the hard limit is reached.
        """
        try:
            return make()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        self._raise(needed_by)
        try:
            return make()
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise OSError(errno.EMFILE, f"{os.strerror(errno.EMFILE)}: {self._words()}") from error
            raise

    def release(self, needed_by: object) -> None:
        """Put the limit back if this was the last that needed more. Descriptors above it stay open."""
        if needed_by not in self._needed_by:
            return
        self._needed_by.remove(needed_by)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not self._needed_by and soft == hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self._before, hard), hard))

    def _raise(self, needed_by: object) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if not self._needed_by:
            self._before = soft
        self._needed_by.add(needed_by)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    @staticmethod
    def _words() -> str:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"zeropod may not open more than {hard} files (RLIMIT_NOFILE, the hard limit)"
