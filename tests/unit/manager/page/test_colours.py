"""Colours are told apart by those who see less well: the contrasts that WCAG 2 asks for, in light and in dark."""

import re
from pathlib import Path

import pytest

from zeropod.manager.page import site

STYLES = (Path(site.__file__).parent / "static/page.css").read_text()
LIGHT, DARK = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in STYLES.split("@media", 2)[:2])

TEXTS = [
    *((text, ground) for text in ("text", "muted", "accent") for ground in ("surface", "ground")),
    ("awake-text", "awake-soft"), ("standby-text", "standby-soft"), ("cold-text", "cold-soft"), ("text", "awake-soft"),
    ("text", "bad-soft"), ("text", "accent-soft"), ("text", "grid"), ("surface", "text"), ("surface", "accent"),
]  # fmt: skip
"""Text, and what is behind it."""
SHAPES = ("awake", "standby", "cold", "wake", "bad", "good")
"""What is told by its shape, on the surface."""


def luminance(colour: str) -> float:
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, LIGHT | DARK], ids=["light", "dark"])
def test_text_can_be_read_and_shapes_be_seen(colours: dict[str, str]) -> None:
    unread = {pair: value for pair in TEXTS if (value := contrast(*(colours[name] for name in pair))) < 4.5}
    unseen = {name: value for name in SHAPES if (value := contrast(colours[name], colours["surface"])) < 3}
    assert (unread, unseen) == ({}, {})


def test_dark_has_a_colour_for_each_of_light() -> None:
    assert LIGHT.keys() == DARK.keys()
    assert contrast("#000000", "#ffffff") == 21
