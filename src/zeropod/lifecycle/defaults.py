"""Which value of each setting holds for a container: the pod's, else its namespace's, else the node's. Pure.

A pod's annotations are the only way to a shim. Those that it has from its namespace were added to it when it was
created, by the policy in installer/manifests/components/namespace-defaults, which names them in one more annotation.

A bad value of a pod's own fails the container, whose author is told at once. One of a namespace or of the node is not
the author's to mend: it is passed over with a complaint, and what is below it holds.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from zeropod.lifecycle.reasons import Explanation, Reason
from zeropod.lifecycle.settings import (
    FROM_NAMESPACE,
    KNOWN,
    PREFIX,
    Settings,
    SettingsError,
    convert,
    names,
    settings_of,
)


class Source(StrEnum):
    """Where a value comes from, the strongest first."""

    POD = "pod"
    NAMESPACE = "namespace"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that is not left as it is built in."""

    key: str
    text: str
    source: Source

    def __str__(self) -> str:
        return f"{self.key}={self.text} ({self.source})"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The settings of one container, and how they came about."""

    settings: Settings
    choices: tuple[Choice, ...] = ()
    complaints: tuple[Explanation, ...] = ()
    """Defaults that mean nothing, and are passed over."""

    def source(self, key: str) -> Source | None:
        """Return where the value of a setting comes from; None for what is built in."""
        return next((choice.source for choice in self.choices if choice.key == key), None)


def resolve(annotations: Mapping[str, str], node: Mapping[str, str], container: str) -> Resolution:
    """Return what holds for the container with this name. Raises SettingsError for a bad value of the pod's own."""
    values, choices = {}, []
    complaints = [
        Reason.BAD_DEFAULT.because(key, Source.NODE, "this version has no such annotation")
        for key in sorted(node.keys() - KNOWN)
    ]
    inherited = names(annotations.get(PREFIX + FROM_NAMESPACE, ""))
    for key in sorted(KNOWN):
        for text, source in _candidates(key, annotations, node, inherited):
            try:
                values[key] = convert(key, text)
            except SettingsError as error:
                if source is Source.POD:
                    raise SettingsError(f"annotation {PREFIX}{key}: {error}") from None
                complaints.append(Reason.BAD_DEFAULT.because(key, source, error))
            else:
                choices.append(Choice(key, text.strip(), source))
                break
    return Resolution(settings_of(values, container), tuple(choices), tuple(complaints))


def _candidates(
    key: str, annotations: Mapping[str, str], node: Mapping[str, str], inherited: frozenset[str]
) -> Iterator[tuple[str, Source]]:
    if (text := annotations.get(PREFIX + key)) is not None:
        yield text, Source.NAMESPACE if key in inherited else Source.POD
    if (text := node.get(key)) is not None:
        yield text, Source.NODE


def complaints_about(node: Mapping[str, str]) -> list[Explanation]:
    """Return what is wrong with the node's defaults, whatever a pod says."""
    return list(resolve({}, node, "").complaints)
