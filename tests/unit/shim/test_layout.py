"""Code is moved in memory, and does the same there."""

import gc
import importlib
import weakref
from collections.abc import Callable
from types import CodeType, FunctionType

import pytest

from zeropod.shim import layout

MODULE = __name__


def named() -> dict[str, CodeType]:
    return dict(layout.named([thing for thing in gc.get_objects() if type(thing) is FunctionType]))


def outer(number: int) -> Callable[[], int]:
    def inner() -> int:
        return number + 1

    return inner


def guarded() -> str:
    return "as it is"


def left() -> str:
    return "alone"


def test_what_is_named_is_moved_and_does_what_it_did() -> None:
    made, codes = outer(1), {"outer": outer.__code__, "guarded": guarded.__code__, "left": left.__code__}
    kept = weakref.ref(guarded.__code__)  # as somebody would who has noted something about it
    layout.pack({f"{MODULE}:{name}" for name in ("outer.<locals>.inner", "guarded")})
    assert (made(), outer(2)(), guarded(), left()) == (2, 3, "as it is", "alone")
    # It is what makes the one that is named.
    assert outer.__code__ is not codes["outer"]
    assert outer(3).__code__ is made.__code__ is not next(c for c in codes["outer"].co_consts if hasattr(c, "co_code"))
    assert guarded.__code__ is codes["guarded"] is kept()
    assert left.__code__ is codes["left"]


def test_what_a_module_says_it_is_does_not_matter() -> None:
    names = named()
    assert names[f"{MODULE}:outer"] is outer.__code__
    outer.__module__ = "somewhere.else"
    try:
        assert f"{MODULE}:outer" in named()
    finally:
        outer.__module__ = MODULE


def test_what_was_recorded_is_still_there() -> None:
    """Nearly: what is not has been renamed since, and costs each shim some memory. `./justw layout` records it anew."""
    ours = {name for name in layout.recorded() if name.startswith("zeropod.")}
    for module in {name.partition(":")[0] for name in ours}:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            continue
    gc.collect()
    unknown = ours - named().keys()
    assert len(ours) > 500
    assert len(unknown) < len(ours) / 20, f"run `./justw layout`: {sorted(unknown)}"


@pytest.mark.parametrize("name", ["trio._core._run:unrolled_run", "zeropod.rpc.server:serve_connection"])
def test_what_every_shim_runs_was_recorded(name: str) -> None:
    assert name in layout.recorded()
