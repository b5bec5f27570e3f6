"""The custom resources of one cluster, over its API; and error texts for users, in kubectl's words."""

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from zeropod.concurrency import leaves
from zeropod.manager.kube.client import Client, path_of
from zeropod.manager.kube.crd import GROUP_VERSION, PLURAL
from zeropod.manager.kube.errors import ApiError, Unreachable

Object = dict[str, Any]


class CommandError(Exception):
    """A command cannot be carried out; the text is printed."""


class Nothing(Exception):  # noqa: N818 - what kubectl prints, and succeeds
    """There is nothing to show in a namespace, or in all for ""."""

    def __init__(self, namespace: str) -> None:
        super().__init__(f"No resources found in {namespace} namespace." if namespace else "No resources found.")


@dataclass(frozen=True, slots=True)
class Cluster:
    client: Client
    prefix: str
    server: str
    """Host and port, for messages."""
    name: str = ""
    """Its name in the kubeconfig; may be empty."""

    def path(self, namespace: str, name: str = "") -> str:
        return self.prefix + path_of(GROUP_VERSION, PLURAL, namespace, name)

    async def get(self, namespace: str, name: str) -> Object:
        """Return a pod's resource. Raises ApiError."""
        return await self.client.get(self.path(namespace, name))

    async def all_in(self, namespace: str) -> tuple[list[Object], str]:
        """Return all resources of a namespace, or of all for "", and their version. Raises ApiError."""
        listing = await self.client.list(self.path(namespace), lambda each: each)
        return sorted(listing.items, key=order), listing.version

    async def some(self, namespace: str, names: Sequence[str]) -> list[Object]:
        """Return the named ones, or all. Raises ApiError."""
        if not names:
            return (await self.all_in(namespace))[0]
        return [await self.get(namespace, name) for name in names]

    async def changes(
        self, namespace: str, name: str, version: str, path: str = ""
    ) -> AsyncGenerator[tuple[str, Object], None]:
        """Yield each change after a version, as ADDED, MODIFIED or DELETED, for ever. Raises ApiError.

        `path` is that of a list of another kind.
        """
        query = {"fieldSelector": f"metadata.name={name}"} if name else None
        while True:
            began, before = trio.current_time(), version
            async with self.client.watch(path or self.path(namespace), version, query) as watch:
                while event := await watch.receive():
                    version = event.version or version
                    if event.kind != "BOOKMARK":
                        yield event.kind, event.object
            if version == before and trio.current_time() - began < 1.0:
                await trio.sleep(1.0)  # in case a server ends each watch at once

    async def namespaces(self) -> list[str]:
        """Return the names of all namespaces. Raises ApiError."""
        path = self.prefix + path_of("v1", "namespaces")
        return (await self.client.list(path, lambda each: str(each["metadata"]["name"]))).items


def order(resource: Object) -> tuple[str, str]:
    """Return the sort key of kubectl's listings."""
    return str(resource["metadata"].get("namespace", "")), str(resource["metadata"]["name"])


def named(words: Sequence[str]) -> list[str]:
    """Return pod names; arguments may be given as pod/NAME. Raises CommandError."""
    names = []
    for word in words:
        kind, separator, name = word.rpartition("/")
        if separator and kind.lower() not in ("pod", "pods", "po", "zeropod", "zeropods", "zp"):
            raise CommandError(f'"{word}" is not a pod: only pods sleep and wake')
        if not name:
            raise CommandError(f"arguments in the form pod/NAME have no empty name: {word!r}")
        names.append(name)
    return names


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors that caused an error, also in groups."""
    cause = error.__cause__
    while cause is not None:
        yield from leaves(cause)
        cause = cause.__cause__


def words_of(error: ApiError, server: str) -> str:
    """Return kubectl's text for an error."""
    if isinstance(error, Unreachable):
        if any(isinstance(each, ConnectionRefusedError) for each in causes(error)):
            return f"The connection to the server {server} was refused - did you specify the right host or port?"
        return f"Unable to connect to the server: {error.message}"
    if error.status == 401:
        return "error: You must be logged in to the server (Unauthorized)"
    if error.status == 404 and not error.reason:
        return f'error: the server doesn\'t have a resource type "{PLURAL}": install the component {PLURAL}'
    reason = f" ({error.reason})" if error.reason else ""
    return f"Error from server{reason}: {error.message}"
