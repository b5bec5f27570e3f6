"""Which node a manager is of, proved to another one: by a token of its service account that only this pod can have.

A token is made for one connection's certificate and for one side of it: its audience says both. A manager that gets one
can show it to no other, since no other's connection has that certificate, and not to its sender, since it is for the
other side. The API server makes tokens, binds them to the pod and so to its node, and says whose a token is.
"""

import base64
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import trio

from zeropod.manager.kube.client import Client, Object, path_of
from zeropod.manager.kube.errors import ApiError, Unreachable

log = logging.getLogger(__name__)

Role = Literal["server", "client"]

LIFETIME = 600
"""Seconds that a token is good for: the least that Kubernetes gives."""
REUSED = 240.0
"""Seconds in which a token of ours is shown again."""
BELIEVED = 60.0
"""Seconds in which a token that was looked at is not looked at again."""
MOST_KNOWN = 256
LONGEST_TOKEN = 8 << 10
NODE_NAME = "authentication.kubernetes.io/node-name"
"""What the API server, from Kubernetes 1.32 on, says of a token that is bound to a pod."""


class Unproved(Exception):  # noqa: N818 - says what it is
    """It is not known which node this is, or it is another one."""


@dataclass(frozen=True, slots=True)
class Self:
    """What the manager's own credential says of it."""

    namespace: str
    account: str
    pod: str
    pod_uid: str

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.account}"


def self_of(token: str) -> Self:
    """Return what a token says of its owner. Raises Unproved for one that is not bound to a pod."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["kubernetes.io"]
        pod = claims["pod"]
        return Self(claims["namespace"], claims["serviceaccount"]["name"], pod["name"], pod["uid"])
    except (LookupError, ValueError, TypeError) as error:
        raise Unproved(f"the service account's token is not one of a pod: {error!r}") from error


def audience(fingerprint: str, role: Role) -> str:
    """Return what a token is made for that this side of a connection shows."""
    return f"zeropod-migration/{fingerprint}/{role}"


class Identity:
    """Shows which node this is, and looks at what others show."""

    def __init__(self, client: Client, own_token: Callable[[], str]) -> None:
        self._client, self._own_token = client, own_token
        self._made: dict[str, tuple[float, str]] = {}
        self._known: dict[tuple[str, str], tuple[float, str]] = {}

    async def token(self, fingerprint: str, role: Role) -> str:
        """Return a token that proves who this is. Raises Unproved."""
        wanted, now = audience(fingerprint, role), trio.current_time()
        if (found := self._made.get(wanted)) and found[0] > now:
            return found[1]
        own = self_of(self._own_token())
        path = path_of("v1", "serviceaccounts", own.namespace, own.account, "token")
        bound = {"apiVersion": "v1", "kind": "Pod", "name": own.pod, "uid": own.pod_uid}
        spec = {"audiences": [wanted], "expirationSeconds": LIFETIME, "boundObjectRef": bound}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        try:
            token = str((await self._create(path, asked))["status"]["token"])
        except (ApiError, LookupError, TypeError) as error:
            raise Unproved(f"no token for this node: {error}") from error
        self._made = {key: each for key, each in self._made.items() if each[0] > now}
        self._made[wanted] = (now + REUSED, token)
        return token

    async def node_of(self, token: str, fingerprint: str, role: Role) -> str:
        """Return the node of the manager that shows a token as this side of a connection. Raises Unproved."""
        wanted, now = audience(fingerprint, role), trio.current_time()
        known = (sha256(token.encode()).hexdigest(), wanted)
        if (found := self._known.get(known)) and found[0] > now:
            return found[1]
        if not token or len(token) > LONGEST_TOKEN:
            raise Unproved("it shows no token")
        spec = {"token": token, "audiences": [wanted]}
        asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        try:
            told = await self._create(path_of("authentication.k8s.io/v1", "tokenreviews"), asked)
            node = self._node_in(told.get("status") or {}, wanted)
        except ApiError as error:
            raise Unproved(f"its token cannot be looked at: {error}") from error
        except (LookupError, TypeError, AttributeError) as error:
            raise Unproved(f"of its token is said what cannot be: {error!r}") from error
        if len(self._known) >= MOST_KNOWN:
            self._known = {key: each for key, each in self._known.items() if each[0] > now}
        if len(self._known) < MOST_KNOWN:
            self._known[known] = (now + BELIEVED, node)
        return node

    async def _create(self, path: str, asked: Object) -> Object:
        """Ask for what may be asked for twice: nothing is kept of it. Raises ApiError."""
        try:
            return await self._client.create(path, asked)
        except Unreachable:
            return await self._client.create(path, asked)

    def _node_in(self, status: dict[str, Any], wanted: str) -> str:
        if status.get("authenticated") is not True or wanted not in (status.get("audiences") or ()):
            raise Unproved(
                f"its token is not for this connection: {status.get('error') or 'the API server refuses it'}"
            )
        user, own = status.get("user") or {}, self_of(self._own_token())
        if user.get("username") != own.user:
            raise Unproved(f"its token is that of {user.get('username')}, not of a manager")
        nodes: list[str] = (user.get("extra") or {}).get(NODE_NAME) or []
        if len(nodes) != 1 or not nodes[0]:
            raise Unproved("its token says no node: Kubernetes 1.32 or newer is needed")
        return str(nodes[0])
