"""The value of each setting of a container: the pod's, else its namespace's, else the node's. Pure functions.

A shim sees only a pod's annotations. Those of its namespace were added when the pod was created, by the policy in
installer/manifests/components/namespace-defaults, which lists them in one more annotation.

An invalid value of the pod fails the container, so that its author learns of it at once. The pod's author cannot
correct an invalid default of a namespace or node: it is reported and ignored, and the next source applies.
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
    """Where a value comes from, by descending precedence."""

    POD = "pod"
    NAMESPACE = "namespace"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting whose value is not the built-in default."""

    key: str
    text: str
    source: Source

    def __str__(self) -> str:
        return f"{self.key}={self.text} ({self.source})"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The settings of one container, and where they come from."""

    settings: Settings
    choices: tuple[Choice, ...] = ()
    complaints: tuple[Explanation, ...] = ()
    """Invalid defaults, which are ignored."""

    def source(self, key: str) -> Source | None:
        """Return where the value of a setting comes from; None for the built-in default."""
        return next((choice.source for choice in self.choices if choice.key == key), None)


def resolve(annotations: Mapping[str, str], node: Mapping[str, str], container: str) -> Resolution:
    """Return the settings of the container with this name. Raises SettingsError for an invalid value of the pod."""
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
    """Return the invalid defaults of the node, regardless of pods."""
    return list(resolve({}, node, "").complaints)
