"""Events about migration, on the pods that it is about, as `kubectl describe pod` shows them."""

import hashlib
import logging
import time
from collections.abc import Callable

from zeropod.manager.kube import pods as kube_pods
from zeropod.manager.kube.client import Client, path_of
from zeropod.manager.kube.errors import ApiError
from zeropod.manager.kube.events import MAX_MESSAGE, Reporter, Told, body_of
from zeropod.manager.kube.names import EVENT_PREFIX

log = logging.getLogger(__name__)

STARTED, MOVED, KEPT, FAILED = "Migrating", "Migrated", "Not migrated", "Migration failed"
"""Reasons of events."""


class Teller:
    """Tells of each thing once, however often it is told to: of one pod, container and reason there is one event."""

    def __init__(self, client: Client, reporter: Reporter, now: Callable[[], float] = time.time) -> None:
        self._client, self._reporter, self._now = client, reporter, now

    async def tell(self, namespace: str, pod: str, uid: str, container: str, reason: str, text: str) -> None:
        """Tell of a container of a pod. That it cannot be told stops nothing."""
        digest = hashlib.sha256(f"{uid}/{container}/{reason}".encode()).hexdigest()
        name, is_warning = f"{EVENT_PREFIX}{digest[:20]}", reason == FAILED
        message = f"Container {container}: {text}".encode()[:MAX_MESSAGE].decode(errors="ignore")
        told = Told(name, container, reason, message, 1, self._now(), False, is_warning)
        about = kube_pods.Pod(namespace, pod, uid, "")
        log.info("%s/%s/%s: %s: %s", namespace, pod, container, reason.lower(), text)
        try:
            await self._client.apply(path_of("v1", "events", namespace, name), body_of(told, about, self._reporter, ""))
        except ApiError as error:
            log.warning("cannot tell of %s/%s by an event: %s", namespace, pod, error)
