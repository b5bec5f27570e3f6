"""The node's configuration: what is wrong in it is told, and never in the way."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod import paths
from zeropod.runtime.node_config import KEYS, NodeConfig, override, parse, read


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The administrator's file and the manager's."""
    own, overrides = tmp_path / "zeropod.toml", tmp_path / "run" / "zeropod.toml"
    monkeypatch.setattr(paths, "NODE_CONFIG", own)
    monkeypatch.setattr(paths, "NODE_OVERRIDES", overrides)
    return own, overrides


def test_without_a_file_the_defaults_hold(files: tuple[Path, Path]) -> None:
    assert read() == (NodeConfig(), [])


def test_every_value_is_read(files: tuple[Path, Path]) -> None:
    files[0].write_text('# ours\nmax-checkpoint-bytes = "20Gi"\nmin-free-bytes = 1000\n')
    assert read() == (NodeConfig(20 << 30, 1000), [])


def test_defaults_are_texts_as_annotations_have_them(files: tuple[Path, Path]) -> None:
    files[0].write_text('[defaults]\nscaledown-duration = "5m"\nstandby-max-resident = 1000\ndry-run = true\n')
    texts = {"scaledown-duration": "5m", "standby-max-resident": "1000", "dry-run": "true"}
    assert read() == (NodeConfig(defaults=texts), [])
    override({"min-free-bytes": 5})
    assert read() == (NodeConfig(0, 5, texts), [])


def test_what_the_manager_was_told_wins_until_it_is_told_nothing(files: tuple[Path, Path]) -> None:
    files[0].write_text('max-checkpoint-bytes = "20Gi"\nmin-free-bytes = 1000\n')
    override({"max-checkpoint-bytes": 5})
    assert read() == (NodeConfig(5, 1000), [])
    assert stat.S_IMODE(os.stat(files[1]).st_mode) == 0o600
    override({})
    assert read() == (NodeConfig(20 << 30, 1000), [])
    override({})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max-checkpoint-bytes = ", "is not TOML"),
        ('max-checkpoint-bytes = "much"', "max-checkpoint-bytes: 'much' is not a number of bytes"),
        ("max-checkpoint-bytes = true", "max-checkpoint-bytes: True is not a number of bytes"),
        ("max-checkpoint-bytes = -1", "max-checkpoint-bytes: -1 is not a number of bytes"),
        ("max-checkpoint-bytes = [1]", "max-checkpoint-bytes: [1] is not a number of bytes"),
        ("max-bytes = 1", "max-bytes is unknown"),
        ("defaults = 1", "defaults: 1 is not a table"),
        ("[defaults]\nstandby = [1]", "defaults.standby: [1] is not text"),
        ("[defaults]\nstandby-duration = 1.5", "defaults.standby-duration: 1.5 is not text"),
        ("[defaults.standby]\nduration = 1", "defaults.standby: {'duration': 1} is not text"),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_holds(files: tuple[Path, Path], text: str, words: str) -> None:
    files[0].write_text(text + "\n")
    config, complaints = read()
    assert config == NodeConfig()
    assert len(complaints) == 1
    assert words in complaints[0]
    assert str(files[0]) in complaints[0]


def test_a_good_value_beside_a_bad_one_holds(files: tuple[Path, Path]) -> None:
    files[0].write_text('min-free-bytes = "5Mi"\nmax-checkpoint-bytes = "much"\n')
    config, complaints = read()
    assert (config, len(complaints)) == (NodeConfig(0, 5 << 20), 1)


def test_a_file_that_is_none_is_told(files: tuple[Path, Path]) -> None:
    files[0].mkdir()
    assert (read()[0], len(read()[1])) == (NodeConfig(), 1)
    files[1].parent.mkdir()
    files[1].write_bytes(b"\xff\xfe")
    assert (read()[0], len(read()[1])) == (NodeConfig(), 2)


VALUES = st.sampled_from(['"1m"', "1", "true", "1.5", "[1]", "{a = 1}", "2020-01-01", '""', "nonsense"])
LINES = st.tuples(st.sampled_from([*KEYS, "defaults", "defaults.standby", "x"]), VALUES).map(" = ".join)


@given(st.text() | st.lists(LINES | st.just("[defaults]") | st.text(max_size=9)).map("\n".join))
def test_no_text_raises(text: str) -> None:
    values, _ = parse(text)
    for key, value in values.get("defaults", {}).items():
        assert isinstance(key, str)
        assert isinstance(value, str)
