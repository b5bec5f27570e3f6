"""What a pager has in memory to itself, also when its pages lie in very many pieces."""

import pytest
from tests.demo.usage import look
from tests.integration import node
from tests.integration.sleep.helpers.stage import REDIS, Stage

MEBIBYTE = 1 << 20
KEYS = 160_000
"""Of 1 kB: some 190 MB, four to a page, in the order in which they were made."""
STEP = 16
"""Every so manyth is written to: every fourth page, which leaves 20,000 pieces."""
WRITE = f"for i = ARGV[1], {KEYS - 1}, {STEP} do redis.call('SETRANGE', 'key:' .. i, 0, ARGV[2]) end"
BOUND = 3 * MEBIBYTE
"""Some 0.7 for the pieces, and 1.2 for the working set, which is full: the writes have touched all keys."""


@pytest.mark.timeout(180)
def test_a_pager_takes_little_memory_however_scattered_its_pages_are(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    app = stage.app("ctr", REDIS, scaledown="500ms", annotations={"standby-memory": "store"})
    with app.connect() as session:
        session.redis("DEBUG", "POPULATE", str(KEYS), "key", "1000")
    found: list[int] = []
    written: list[int] = []
    for cycle in range(6):
        app.standby(60)
        node.until(lambda: not app.status.memory_moving, "its memory is out")
        assert app.status.memory_out_bytes > 150 * MEBIBYTE
        found.append(look(app.id, app.namespace).pager)
        written.append(app.status.memory_written_bytes)
        with app.connect() as session:
            if cycle in (1, 2):
                session.redis("EVAL", WRITE, "0", str(cycle), str(cycle))
            else:
                assert session.redis("DBSIZE") == KEYS
    with capsys.disabled():  # figures to be seen in every run
        print("\nprivate memory of the pager:", *(f"{size / MEBIBYTE:.2f}" for size in found), "MiB")
        print("written by each sleep:", *(size // MEBIBYTE for size in written), "MiB")
    assert min(found) > 0
    assert max(found) <= BOUND, found
