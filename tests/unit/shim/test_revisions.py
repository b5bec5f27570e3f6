"""Which containers have changed since when."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from zeropod.shim.revisions import Revisions


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(0, 20))
def test_what_has_changed_after_a_moment_is_known_whatever_happened_before(
    history: list[tuple[str, bool]], moment: int
) -> None:
    revisions = Revisions()
    last: dict[str, int] = {}
    for name, gone in history:
        if gone:
            revisions.forget(name)
            last.pop(name, None)
        else:
            revisions.bump(name)
            last[name] = revisions.last
    expected = sorted((number, name) for name, number in last.items() if number > moment)
    assert revisions.since(moment) == [name for _, name in expected]


async def test_who_has_missed_something_does_not_wait(nursery: trio.Nursery) -> None:
    revisions = Revisions()
    revisions.bump("a")
    with trio.fail_after(1):
        await revisions.wait_after(0)


async def test_who_knows_all_waits_for_the_next_change(nursery: trio.Nursery) -> None:
    revisions, heard = Revisions(), trio.Event()

    async def wait() -> None:
        await revisions.wait_after(0)
        heard.set()

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert not heard.is_set()
    revisions.forget("a")
    with trio.fail_after(1):
        await heard.wait()
