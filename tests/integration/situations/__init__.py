"""Situations that a sleep in STANDBY must not change: each is set up, slept through with memory out, and checked."""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{name}"
        for name in ("ending", "files", "memory", "objects", "processes", "scene", "sockets", "tasks")
    )
)
