"""Becomes __main__.py in zeropod.pyz: the first Python that runs in the archive.

Has to be readable for older versions of Python than zeropod needs, in order to find a newer one or to say so.
"""

import os
import sys

OLDEST = (3, 11)
# Distributions whose python3 is older install newer ones beside it, by these names.
NEWER = ("python3.14", "python3.13", "python3.12", "python3.11")


def find_newer_python() -> None:
    """Runs the archive with a newer Python from PATH instead; ends with a message where there is none."""
    for name in NEWER:
        try:
            os.execvp(name, [name, "-I", "-S", *sys.argv])
        except OSError:
            continue
    oldest, found = (".".join(map(str, version)) for version in (OLDEST, sys.version_info[:3]))
    sys.exit(f"zeropod: needs Python {oldest} or newer on PATH; {sys.executable} is {found}")


if sys.version_info < OLDEST:
    find_newer_python()

from zeropod.__main__ import main

sys.exit(main())
