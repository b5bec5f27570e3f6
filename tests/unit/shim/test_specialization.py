"""Classes are prepared without any code of theirs being run, and their objects are what they were."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from zeropod.shim import specialization

ran: list[str] = []


class Meta(type):
    def __getattribute__(cls, name: str) -> object:
        ran.append(f"metaclass: {name}")
        return super().__getattribute__(name)

    def __eq__(cls, other: object) -> bool:
        ran.append("comparison")
        return cls is other

    def __hash__(cls) -> int:
        ran.append("hash")
        return 1


class Loud(metaclass=Meta):
    def __new__(cls) -> "Loud":
        ran.append("new")
        return super().__new__(cls)

    def __init__(self) -> None:
        ran.append("init")


class Quiet:
    def __init__(self) -> None:
        ran.append("init")
        self.first, self.second = 1, 2

    def __setattr__(self, name: str, value: object) -> None:
        ran.append(f"set {name}")
        super().__setattr__(name, value)

    @property
    def managed(self) -> int:
        return self.first

    @managed.setter
    def managed(self, value: int) -> None:
        ran.append("setter")
        self.first = value

    def manage(self) -> None:
        self.managed = 3


class Ends:
    def __del__(self) -> None:
        ran.append("del")


class Watches:
    def __getattribute__(self, name: str) -> object:
        ran.append(f"get {name}")
        return super().__getattribute__(name)


@dataclass
class Record:
    name: str
    size: int = 0


class Below(Record):
    def grow(self) -> None:
        self.size += 1


@pytest.fixture(autouse=True)
def prepared() -> None:
    ran.clear()
    specialization.prepare()


def test_nothing_of_anybody_s_runs() -> None:
    assert ran == []


def test_objects_are_what_they_were() -> None:
    thing, record, below = Quiet(), Record("a"), Below("b", 2)
    thing.managed = 5
    below.grow()
    assert vars(thing) == {"first": 5, "second": 2}
    assert (vars(record), vars(below)) == ({"name": "a", "size": 0}, {"name": "b", "size": 3})
    assert Record.size == 0
    assert not hasattr(Quiet, "first")
    for number in range(50):
        setattr(thing, f"another_{number}", number)
    assert len(vars(thing)) == 52


@pytest.mark.skipif(sys.version_info < (3, 13), reason="no such objects; test_zygote runs this with the node's Python")
def test_objects_have_room_for_their_own_attributes_and_one_more() -> None:
    one = sys.getsizeof(Record("a")) - sys.getsizeof(Below("b"))
    assert one == 0
    assert sys.getsizeof(Record("a")) < 200


def test_an_interpreter_lives_through_it_with_much_that_is_compiled() -> None:
    compiled = "asyncio, ctypes, decimal, sqlite3, ssl, xml.etree.ElementTree, zoneinfo"
    program = f"import sys; sys.path[:0] = {sys.path!r}; import {compiled}; "
    program += "from zeropod.shim import specialization; specialization.prepare()"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
