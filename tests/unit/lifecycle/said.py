"""Explanations whose words a test chooses."""

from zeropod.lifecycle.reasons import Explanation, Reason


def said(text: str) -> Explanation:
    """Return an explanation with exactly these words."""
    return Reason.LOST.because(text)
