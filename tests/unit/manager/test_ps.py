"""The table and the JSON of `zeropod ps`."""

import json
import re
import socket
import time
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.manager.fakes import FakeShim, listen
from trio.testing import MockClock

from zeropod import shims
from zeropod.manager import ps
from zeropod.manager.ps import as_dict, main, table
from zeropod.manager.units import span
from zeropod.rpc.messages import status_pb2
from zeropod.rpc.messages.status_pb2 import ContainerStatus

NOW = 1_800_000_000.0


def status(ago: float = 0.0, **fields: object) -> ContainerStatus:
    made = ContainerStatus(**fields)  # type: ignore[arg-type]
    made.since.FromNanoseconds(round((NOW - ago) * 1e9))
    return made


ASLEEP = status(
    90.0,
    id="0123456789abcdef",
    namespace="k8s.io",
    pod_namespace="default",
    pod="web-0",
    container="nginx",
    state=status_pb2.COLD,
    last_checkpoint_ms=120.4,
    last_restore_ms=75.6,
    checkpoints=2,
    restores=1,
)
AWAKE = status(3.0, id="r1", namespace="moby", state=status_pb2.RUNNING, pid=4711, why="exec 7 is running")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m0s"),
        (3599, "59m59s"),
        (3600, "1h0m"),
        (86399, "23h59m"),
        (86400, "1d0h"),
        (1_000_000, "11d13h"),
    ],
)
def test_a_span_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@given(st.integers(0, 10**9))
def test_a_span_is_the_time_without_the_units_too_small_to_be_shown(seconds: int) -> None:
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    parts = re.findall(r"(\d+)([dhms])", span(seconds))
    shown = sum(int(number) * units[unit] for number, unit in parts)
    assert 0 <= seconds - shown < units[parts[-1][1]]


def test_the_table_has_a_row_for_each_container() -> None:
    heads, asleep, awake = (re.split(r"\s{2,}", line) for line in table([ASLEEP, AWAKE], NOW).splitlines())
    assert heads[:6] == ["ID", "NAMESPACE", "POD", "CONTAINER", "STATE", "PID"]
    assert asleep == ["0123456789abc", "default", "web-0", "nginx", "COLD", "-", "1m30s", "-", "120 ms", "76 ms"]
    assert awake == ["r1", "moby", "-", "-", "RUNNING", "4711", "3s", "-", "-", "-", "exec 7 is running"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"state": status_pb2.STANDBY, "memory_backend": "swap"}, "swap 328/4 MiB"),
        ({"state": status_pb2.DOZING, "memory_backend": "store"}, "store 328/4 MiB"),
        ({"state": status_pb2.STANDBY, "memory_backend": "resident"}, "resident 4 MiB"),
        ({"state": status_pb2.STANDBY}, "-"),
        ({"state": status_pb2.RUNNING, "memory_backend": "store"}, "store 328/4 MiB"),
        ({"state": status_pb2.RUNNING, "memory_backend": "store", "memory_out_bytes": 0}, "-"),
        ({"state": status_pb2.COLD, "image_bytes": 60 << 20}, "image 60 MiB"),
    ],
)
def test_the_memory_is_out_and_left_or_an_image(fields: dict[str, object], text: str) -> None:
    made = status(
        3.0, **{"id": "r1", "namespace": "moby", "memory_out_bytes": 328 << 20, "memory_left_bytes": 4 << 20, **fields}
    )
    row = table([made], NOW).splitlines()[1]
    assert re.split(r"\s{2,}", row)[7] == text


def test_the_json_has_the_memory_of_one_in_standby() -> None:
    found = as_dict(status(memory_backend="swap", memory_why="swap is free", memory_out_bytes=5, why_kept="kept"))
    assert found["memory"] == {
        "backend": "swap",
        "why": "swap is free",
        "out_bytes": 5,
        "left_bytes": 0,
        "written_bytes": 0,
        "faults": 0,
        "brought_in_bytes": 0,
    }
    assert found["why_kept"] == "kept"
    assert as_dict(AWAKE)["memory"] is None


def test_the_columns_are_aligned_and_no_line_ends_in_blanks() -> None:
    lines = table([ASLEEP, AWAKE], NOW).splitlines()
    starts = [line.index(word) for line, word in zip(lines, ["STATE", "COLD", "RUNNING"], strict=True)]
    assert len(set(starts)) == 1
    assert all(line == line.rstrip() for line in lines)


def test_a_node_without_containers_has_the_heads_alone() -> None:
    assert table([], NOW).count("\n") == 1


def test_the_json_has_everything_and_null_where_there_is_nothing() -> None:
    found = as_dict(ASLEEP)
    assert (found["id"], found["namespace"], found["pod"]) == ("0123456789abcdef", "default", "web-0")
    assert (found["state"], found["pid"], found["since"]) == ("COLD", None, NOW - 90)
    assert (found["last_checkpoint_ms"], found["checkpoints"], found["restores"]) == (120.4, 2, 1)
    assert found["why"] is found["message"] is None
    assert as_dict(AWAKE)["pod"] is as_dict(AWAKE)["last_restore_ms"] is None


def show(monkeypatch: pytest.MonkeyPatch, containers: list[ContainerStatus], silent: list[str]) -> None:
    """What the node's shims answer."""

    async def look() -> tuple[list[shims.Found], list[str]]:
        await trio.lowlevel.checkpoint()
        return [shims.Found(status, "") for status in containers], silent

    monkeypatch.setattr(shims, "look", look)
    monkeypatch.setattr(time, "time", lambda: NOW)


def test_it_looks_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show(monkeypatch, [AWAKE], [])
    assert main([]) == 0
    assert capsys.readouterr().out == table([AWAKE], NOW)


def test_json_is_one_array(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show(monkeypatch, [AWAKE, ASLEEP], [])
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [as_dict(AWAKE), as_dict(ASLEEP)]


async def test_watching_shows_every_change_as_it_happens(
    place: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    shim = FakeShim(AWAKE)
    await listen(place / "1.sock", nursery, shim.services())
    nursery.start_soon(ps._watch, True)
    await trio.sleep(1000)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == [as_dict(AWAKE)]
    shim.change(ASLEEP)
    await trio.sleep(1000)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == [as_dict(AWAKE), as_dict(ASLEEP)]


async def test_the_table_is_shown_again_for_the_times_in_it(
    place: Path, nursery: trio.Nursery, capsys: pytest.CaptureFixture[str], autojump_clock: MockClock
) -> None:
    await listen(place / "1.sock", nursery, FakeShim(AWAKE).services())
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place / "2.sock"))
    nursery.start_soon(ps._watch, False)
    await trio.sleep(20 * (ps.REFRESH + ps.GATHER))
    said = capsys.readouterr()
    assert said.out.count("RUNNING") >= 19
    assert said.err.count("Connection refused") == 1, "told once"


def test_a_shim_that_does_not_answer_is_named_and_the_others_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    show(monkeypatch, [AWAKE], ["/run/zeropod/s/x.sock: UNAVAILABLE: Connection refused"])
    assert main([]) == 1
    said = capsys.readouterr()
    assert "r1" in said.out
    assert "/run/zeropod/s/x.sock: UNAVAILABLE: Connection refused" in said.err


def test_who_may_not_look_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse() -> list[str]:
        raise PermissionError

    monkeypatch.setattr(shims, "sockets", refuse)
    assert main([]) == 1
    assert "sudo" in capsys.readouterr().err
