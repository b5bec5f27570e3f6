"""What is added to somebody's configuration can be taken back, and nothing else changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropod.installer import edits
from zeropod.installer.errors import InstallError

DROP_IN = "/etc/containerd/conf.d/zeropod.toml"
BLOCK = '[plugins."x".runtimes.zeropod]\n  a = 1\n'

MANY = """\
version = 3
imports = [
  "/etc/containerd/site/*.toml", # ours, since 2024
  "/etc/containerd/other.toml",
]

[debug] # not now
  level = "info"
"""

texts = st.text(st.characters(exclude_characters="\r", codec="utf-8")).map(lambda text: text and f"{text}\n")


@given(texts)
def test_a_block_can_be_taken_back(text: str) -> None:
    assert edits.without_block(edits.with_block(text, BLOCK)) == text


@given(texts, texts)
def test_what_is_written_behind_a_block_later_stays(before: str, after: str) -> None:
    assert edits.without_block(edits.with_block(before, BLOCK) + after) == before + after


def test_a_block_replaces_an_earlier_one() -> None:
    once = edits.with_block(MANY, "a = 1\n")
    assert edits.with_block(once, BLOCK) == edits.with_block(MANY, BLOCK)


@pytest.mark.parametrize(
    "text",
    [
        MANY,
        'version = 3\nimports = ["/etc/a.toml"]\n[debug]\n',
        'imports = ["/etc/a.toml", "/etc/b.toml"]\nversion = 2\n',
        "# mine\nversion = 2\n\n# of the debugger\n[debug]\n  level = 'info'\n",
        "[debug]\n",
        "",
    ],
)
def test_an_import_is_added_and_taken_back(text: str) -> None:
    added = edits.with_import(text, DROP_IN)
    values = edits.parse(added, "it")
    assert edits.imports(values) == [*edits.imports(edits.parse(text, "it")), DROP_IN]
    assert {key: value for key, value in values.items() if key != "imports"} == {
        key: value for key, value in edits.parse(text, "it").items() if key != "imports"
    }
    assert edits.with_import(added, DROP_IN) == added
    assert edits.without_import(added, DROP_IN) == text


def test_comments_and_order_survive_an_import() -> None:
    kept = [line for line in MANY.splitlines() if line]
    added = edits.with_import(MANY, DROP_IN).splitlines()
    assert [line for line in added if line in kept] == kept


@pytest.mark.parametrize(
    ("pattern", "covered"),
    [
        ("/etc/containerd/conf.d/*.toml", True),
        ("conf.d/*.toml", True),
        (DROP_IN, True),
        ("/etc/containerd/*.toml", False),
        ("/etc/*/zeropod.toml", False),
        ("/etc/containerd/conf.d/*.conf", False),
    ],
)
def test_patterns_of_imports_are_read_as_containerd_reads_them(pattern: str, covered: bool) -> None:
    assert edits.imported_by([pattern], DROP_IN, "/etc/containerd") is covered


def test_a_file_that_is_no_toml_is_named() -> None:
    with pytest.raises(InstallError, match=r"/etc/x\.toml is not valid TOML"):
        edits.parse("= 1", "/etc/x.toml")


def test_a_comma_at_the_end_of_an_array_is_no_obstacle() -> None:
    text = 'imports = ["/etc/a.toml", "/etc/b.toml",]\n'
    added = edits.with_import(text, DROP_IN)
    assert edits.imports(edits.parse(edits.without_import(added, DROP_IN), "it")) == ["/etc/a.toml", "/etc/b.toml"]


def test_imports_that_are_no_array_are_refused() -> None:
    with pytest.raises(InstallError, match="not an array"):
        edits.with_import('imports = "x"\n', DROP_IN)
