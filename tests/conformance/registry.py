"""A registry on the node's loopback that every pull asks, with the images of an archive: critest pulls some."""

import json
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

HOSTS = Path("/etc/containerd/certs.d")
CONFIG = f'[plugins."io.containerd.cri.v1.images".registry]\n  config_path = "{HOSTS}"\n'
"""What containerd's configuration has to say for it."""

REQUEST = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/]+)")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OTHER = "application/octet-stream"


class Images:
    """The archive's blobs, and the manifests by the images' names."""

    def __init__(self, archive: Path) -> None:
        self.blobs: dict[str, bytes] = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := tar.extractfile(member)) and member.name.startswith("blobs/sha256/"):
                    self.blobs[f"sha256:{Path(member.name).name}"] = file.read()
            index = tar.extractfile("index.json")
            assert index
            manifests = json.load(index)["manifests"]
        self.names = {each["annotations"]["io.containerd.image.name"]: each["digest"] for each in manifests}

    def find(self, registry: str, repository: str, reference: str) -> tuple[str, bytes] | None:
        """The digest and bytes of a blob or of a tag's manifest."""
        digest = self.names.get(f"{registry}/{repository}:{reference}", reference)
        data = self.blobs.get(digest)
        return None if data is None else (digest, data)


@contextmanager
def serving(archive: Path) -> Iterator[None]:
    """Serve the archive during the block."""
    images = Images(archive)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            parts = urlsplit(self.path)
            asked = REQUEST.fullmatch(parts.path)
            registry = parse_qs(parts.query).get("ns", [""])[0]
            found = images.find(registry, asked[1], asked[3]) if asked else None
            if not asked or not found:
                self.send_error(404)
                return
            digest, data = found
            self.send_response(200)
            self.send_header("Content-Type", MANIFEST if asked[2] == "manifests" else OTHER)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if with_body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: critest's output is read."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        (HOSTS / "_default").mkdir(parents=True, exist_ok=True)
        (HOSTS / "_default" / "hosts.toml").write_text(
            f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()
