"""Code that has run is moved in memory, and does the same there."""

import threading
import weakref
from collections.abc import Callable

from zeropod.zygote import code_layout


def outer(number: int) -> Callable[[], int]:
    def inner() -> int:
        return number + 1

    return inner


def guarded() -> str:
    return "as it is"


def idle() -> str:
    return "alone"


def threaded() -> str:
    return "elsewhere"


def test_code_that_has_run_is_moved_and_does_what_it_did() -> None:
    made = outer(1)
    before = {function: function.__code__ for function in (outer, guarded, idle, threaded)}
    kept = weakref.ref(guarded.__code__)  # a note about this very code
    with code_layout.recorded() as ran:
        made()
        guarded()
        thread = threading.Thread(target=threaded)
        thread.start()
        thread.join()
    idle()
    code_layout.pack(ran)
    assert (made(), outer(2)(), guarded(), idle(), threaded()) == (2, 3, "as it is", "alone", "elsewhere")
    # The inner one has run, the outer one contains it.
    assert outer.__code__ is not before[outer]
    assert outer(3).__code__ is made.__code__ is not next(c for c in before[outer].co_consts if hasattr(c, "co_code"))
    assert threaded.__code__ is not before[threaded]
    assert guarded.__code__ is before[guarded] is kept()
    assert idle.__code__ is before[idle]


def test_nothing_is_recorded_after_the_block() -> None:
    with code_layout.recorded() as ran:
        pass
    before = len(ran)
    idle()
    assert len(ran) == before
